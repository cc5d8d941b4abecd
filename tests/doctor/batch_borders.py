"""Masks of other kinds, masks that end before the prompt does, labels of short answers: spoiled, and their near misses.

Importing this registers them beside the others.
"""

from __future__ import annotations

import torch
from tests.doctor.batch_faults import fault, prompt_in_answer_out
from tests.doctor.batch_good import good
from tests.doctor.batch_samples import ROWS, Batch, Row, World

IMPORTED = True
TWO = ("tinyllama-1.1b", "gpt2")
LEAST = torch.finfo(torch.float32).min


def earlier(rows: list[Row], by: int, world: World) -> Batch:
    """Masks that end `by` tokens before the answer."""
    made = []
    for ids, labels in rows:
        first = next(n for n, label in enumerate(labels) if label != -100)
        masked = first - by
        made.append((ids, [-100] * masked + ids[masked:]))
    return world.batch(made)


def asked(world: World, ask: str) -> list[Row]:
    return World(world.tokenizer, [(ask.format(prompt), answer) for prompt, answer in world.pairs]).rows()


def unspaced(world: World, ask: str) -> list[Row]:
    """[prompt, answer, end] with nothing between prompt and answer."""
    made = []
    for prompt, answer in world.pairs[:ROWS]:
        given = [*world.begin, *world.text(ask.format(prompt))]
        learned = [*world.text(" " + answer), world.eos]
        made.append((given + learned, [-100] * len(given) + learned))
    return made


def causal(batch: Batch) -> torch.Tensor:
    """(B, 1, L, L) True where a token may be read."""
    width = batch["input_ids"].shape[1]
    before = torch.tril(torch.ones(width, width, dtype=torch.bool))
    return before & batch["attention_mask"].bool()[:, None, None, :]


def added(table: torch.Tensor) -> torch.Tensor:
    return torch.zeros(table.shape).masked_fill(~table, LEAST)


# ---------------------------------------------------------------- where masks end


@fault("answer-header-scored", "warning")
def marker_of_the_answer_scored(world):
    rows = world.chat("### Instruction:\n{}\n\n", "### Response:\n", [world.eos])
    return earlier(rows, len(world.text("### Response:\n")), world)


@fault("answer-header-scored", "warning")
def marker_of_every_turn_scored(world):
    made = []
    for first in range(ROWS):
        ids, labels = list(world.begin), [-100] * len(world.begin)
        for turn in range(2):
            question, said = world.pairs[(first + turn * ROWS) % len(world.pairs)]
            given = world.text(f"[INST] {question} ")
            learned = world.text("[/INST]") + world.text(said) + [world.eos]
            ids, labels = ids + given + learned, labels + [-100] * len(given) + learned
        made.append((ids, labels))
    return world.batch(made)


@fault("prompt-end-scored", "warning")
def colon_of_the_marker_scored(world):
    rows = world.chat("### Instruction:\n{}\n\n", "### Response:", [world.eos])
    return earlier(rows, 1, world)


@fault("prompt-end-scored", "warning")
def mask_measured_without_the_marker_and_more(world):
    rows = world.chat("### Instruction:\n{}\n\n", "### Response:\n", [world.eos])
    return earlier(rows, len(world.text("### Response:\n")) + 8, world)


@fault("prompt-end-scored", "warning")
def colon_of_the_prompt_scored(world):
    return earlier(unspaced(world, "Question: {}\nAnswer:"), 1, world)


@fault("prompt-end-scored", "warning")
def question_mark_scored(world):
    return earlier(unspaced(world, "{}"), 1, world)


@fault("answer-start-not-scored", "warning")
def two_tokens_behind_a_wording_of_the_users_own(world):
    rows = unspaced(world, "Question: {}\nAnswer:")
    return earlier(rows, -2, world)


@fault("answer-start-not-scored", "warning")
def masks_as_long_as_other_prompts(world):
    rows = unspaced(world, "Question: {}\nAnswer:")
    lengths = [labels.count(-100) + (6 if number % 2 else -9) for number, (_, labels) in enumerate(rows)]
    return world.batch([(ids, [-100] * by + ids[by:]) for (ids, _), by in zip(rows, lengths, strict=True)])


@fault("answer-start-not-scored", "warning")
def the_end_alone_scored(world):
    return world.batch([(ids, [-100] * (len(ids) - 1) + ids[-1:]) for ids, _ in world.rows()])


@fault("eos-missing", "error")
def packed_samples_without_an_end(world):
    rows = world.rows(end=False)
    given = [
        [token for ids, _ in rows for token in ids],
        [token for _, labels in rows for token in labels],
        [place for ids, _ in rows for place in range(len(ids))],
    ]
    return dict(zip(("input_ids", "labels", "position_ids"), (torch.tensor([row]) for row in given), strict=True))


@fault("eos-missing", "error")
def no_end_and_padded_left(world):
    return world.batch(world.rows(end=False), side="left")


@fault("prompt-end-scored", "note")
def line_end_of_the_prompt_scored(world):
    return earlier(world.rows(), 1, world)


@good()
def answers_that_begin_alike(world):
    pairs = [(f"{prompt}\nLet us think", f"step by step: {answer}") for prompt, answer in world.pairs]
    return World(world.tokenizer, pairs).good()


@good()
def answers_in_brackets(world):
    """Code and lists begin with signs; what follows these is no word."""
    pairs = [(prompt, f"(({number}) + {answer})") for number, (prompt, answer) in enumerate(world.pairs)]
    return World(world.tokenizer, pairs).good()


@good()
def answers_that_are_signs(world):
    made = []
    for number, (prompt, _) in enumerate(world.pairs[:ROWS]):
        given = [*world.begin, *world.text(f"Which sign ends this: {prompt[:-1]}")]
        learned = [*world.text("?!."[number % 3]), world.eos]
        made.append((given + learned, [-100] * len(given) + learned))
    return world.batch(made)


@good("prompt-end-scored")
def answers_that_begin_with_a_line_end(world):
    return earlier(world.rows(), 1, world)


# ---------------------------------------------------------------- kinds of attention masks


@fault("attention-mask-kind", "warning", only=TWO)
def added_mask_of_one_number_a_token(world):
    batch = world.good()
    return batch | {
        "attention_mask": torch.zeros(batch["labels"].shape).masked_fill(batch["attention_mask"] == 0, LEAST)
    }


@fault("attention-mask-kind", "warning", only=TWO)
def added_mask_in_lists_with_infinities(world):
    batch = world.good(side="left")
    lists = [[0.0 if shown else -float("inf") for shown in row] for row in batch["attention_mask"].tolist()]
    return {key: batch[key].tolist() for key in ("input_ids", "labels")} | {"attention_mask": lists}


@fault("attention-mask-kind", "warning", only=TWO)
def added_mask_in_bfloat16_of_a_batch_without_padding(world):
    batch = world.batch([(ids[-40:], labels[-40:]) for ids, labels in world.rows()])
    return batch | {"attention_mask": torch.zeros(batch["labels"].shape, dtype=torch.bfloat16)}


@fault("attention-mask-kind", "warning", only=TWO)
def added_mask_of_integers(world):
    batch = world.good()
    return batch | {"attention_mask": -10_000 * (1 - batch["attention_mask"])}


@fault("attention-mask-kind", "warning", only=TWO)
def table_of_zeros_and_ones_in_floats(world):
    batch = world.good()
    return batch | {"attention_mask": causal(batch).float()}


@fault("attention-mask-inverted", "warning", only=TWO)
def booleans_say_what_is_padding(world):
    batch = world.good()
    return batch | {"attention_mask": batch["attention_mask"] == 0}


@fault("attention-mask-inverted", "warning", only=TWO)
def everything_is_hidden(world):
    batch = world.good()
    return batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])}


@fault("attention-mask-inverted", "warning", only=TWO)
def table_says_what_is_hidden(world):
    batch = world.good()
    return batch | {"attention_mask": ~causal(batch)}


@fault("attention-mask-inverted", "warning", only=TWO)
def added_table_hides_what_came_before(world):
    batch = world.good()
    return batch | {"attention_mask": added(~causal(batch))}


@fault("attention-mask-looks-ahead", "warning", only=TWO)
def table_of_padding_alone(world):
    batch = world.good()
    width = batch["input_ids"].shape[1]
    return batch | {"attention_mask": batch["attention_mask"].bool()[:, None, None, :].expand(-1, 1, width, width)}


@fault("attention-mask-looks-ahead", "warning", only=TWO)
def added_mask_of_four_dimensions_without_queries(world):
    batch = world.good()
    return batch | {"attention_mask": added(batch["attention_mask"].bool()[:, None, None, :])}


@good()
def floats_of_zero_and_one(world):
    batch = world.good()
    return batch | {"attention_mask": batch["attention_mask"].float()}


@good()
def a_table_of_booleans(world):
    batch = world.good()
    return batch | {"attention_mask": causal(batch)}


@good()
def a_table_that_is_added(world):
    batch = world.good(side="left")
    table = causal(batch)
    table |= ~table.any(dim=-1, keepdim=True)  # as transformers: rows that would read nothing read everything
    return batch | {"attention_mask": added(table)}


@good()
def a_table_of_three_dimensions(world):
    batch = world.good()
    return batch | {"attention_mask": added(causal(batch)[:, 0])}


@good()
def a_prompt_that_is_read_in_both_directions(world):
    """A prefix language model: the answer is causal."""
    batch = world.good()
    prompts = (batch["labels"] == -100) & batch["attention_mask"].bool()
    return batch | {"attention_mask": causal(batch) | (prompts[:, None, :, None] & prompts[:, None, None, :])}


# ---------------------------------------------------------------- labels of short answers


def two_sided(world: World, answers: list[str], count: int) -> Batch:
    pairs = [(prompt, answers[number % len(answers)]) for number, (prompt, _) in enumerate(world.pairs)]
    short = World(world.tokenizer, pairs)
    left, right = (short.batch(short.rows(count), side=side) for side in ("left", "right"))
    return left | {"labels": right["labels"]}


@fault("labels-misaligned", "error")
def short_answers_padded_on_two_sides(world):
    return two_sided(world, ["yes", "no"], ROWS)


@fault("labels-misaligned", "error")
def many_rows_padded_on_two_sides(world):
    """More rows than a search of every offset had time for."""
    rows = [world.rows(1, first=number % 24)[0] for number in range(60)]
    cut = [(ids[: 80 + number], labels[: 80 + number]) for number, (ids, labels) in enumerate(rows)]
    left, right = (world.batch(cut, side=side) for side in ("left", "right"))
    return left | {"labels": right["labels"]}


@fault("labels-misaligned", "error")
def long_and_short_answers_padded_on_two_sides(world):
    pairs = [(prompt, "7" if number % 3 == 0 else answer) for number, (prompt, answer) in enumerate(world.pairs)]
    mixed = World(world.tokenizer, pairs)
    left, right = (mixed.batch(mixed.rows(), side=side) for side in ("left", "right"))
    return left | {"labels": right["labels"]}


@fault("answer-at-prompt-positions", "error")
def short_answers_at_prompt_positions(world):
    pairs = [(prompt, ["yes", "no", "maybe"][number % 3]) for number, (prompt, _) in enumerate(world.pairs)]
    return prompt_in_answer_out(World(world.tokenizer, pairs))


# ---------------------------------------------------------------- turns and positions

CHAT = "<|im_start|>{}\n{}<|im_end|>\n"


def conversations(world: World, scored: set[str], hidden_in: int = 0) -> Batch:
    """[system, user, tool, answer]; of the first `hidden_in` rows the answers alone are scored."""
    made = []
    for number, (prompt, answer) in enumerate(world.pairs[:ROWS]):
        ids, labels = list(world.begin), [-100] * len(world.begin)
        turns = [
            ("system", CHAT.format("system", "You are patient, and count in small steps up to the end.")),
            ("user", CHAT.format("user", prompt)),
            ("tool", CHAT.format("tool", f"result: {number * 37}; unit: apples; checked twice by a person")),
            ("", "<|im_start|>assistant\n"),
            ("answer", answer),
        ]
        for role, said in turns:
            piece = world.text(said)
            learned = role == "answer" or (role in scored and number >= hidden_in)
            ids, labels = ids + piece, labels + (piece if learned else [-100] * len(piece))
        made.append(([*ids, world.eos], [*labels, world.eos]))
    return world.batch(made)


@fault("prompt-in-loss", "error", only=TWO, learns="answers")
def system_turns_scored(world):
    return conversations(world, {"system"})


@fault("prompt-in-loss", "warning", only=TWO)
def results_of_tools_scored(world):
    return conversations(world, {"tool"})


@fault("positions-wrong", "warning")
def positions_run_on_through_the_batch(world):
    batch = world.good()
    return batch | {"position_ids": torch.arange(batch["labels"].numel()).view_as(batch["labels"])}


@good(learns="text")
def positions_of_later_windows(world):
    """Windows of one text, half of which overlaps the one before: the batch holds the later ones."""
    stream = [token for ids, _ in world.rows(3 * ROWS) for token in ids[len(world.begin) : -1]]
    starts = torch.arange(0, 8 * 32, 32) + 64
    ids = torch.stack([torch.tensor(stream[at : at + 64]) for at in starts.tolist()])
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": starts[:, None] + torch.arange(64)}
