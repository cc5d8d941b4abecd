"""Masks of other kinds, masks that end before the prompt does, labels of short answers: spoiled, and their near misses.

FAULTS and GOOD hold these and the others.
"""

from __future__ import annotations

import torch
from tests.doctor.batch_faults import FAULTS as FAULTS
from tests.doctor.batch_faults import add, fault, prompt_in_answer_out
from tests.doctor.batch_good import GOOD as GOOD
from tests.doctor.batch_good import add_good, good
from tests.doctor.batch_samples import ROWS, Batch, Row, World, answer_start, changed, scored_from, two_sided

TWO = ("tinyllama-1.1b", "gpt2")
LEAST = torch.finfo(torch.float32).min


def earlier(rows: list[Row], by: int, world: World) -> Batch:
    """Masks that end `by` tokens before the answer."""
    return world.batch([scored_from(answer_start(row) - by, row[0]) for row in rows])


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


@fault("answer-start-not-scored", "warning")
def masks_as_long_as_other_prompts(world):
    rows = unspaced(world, "Question: {}\nAnswer:")
    lengths = [labels.count(-100) + (6 if number % 2 else -9) for number, (_, labels) in enumerate(rows)]
    return world.batch([(ids, [-100] * by + ids[by:]) for (ids, _), by in zip(rows, lengths, strict=True)])


@fault("eos-missing", "error")
def packed_samples_without_an_end(world):
    rows = world.rows(end=False)
    given = [
        [token for ids, _ in rows for token in ids],
        [token for _, labels in rows for token in labels],
        [place for ids, _ in rows for place in range(len(ids))],
    ]
    return dict(zip(("input_ids", "labels", "position_ids"), (torch.tensor([row]) for row in given), strict=True))


@good()
def answers_that_are_signs(world):
    made = []
    for number, (prompt, _) in enumerate(world.pairs[:ROWS]):
        given = [*world.begin, *world.text(f"Which sign ends this: {prompt[:-1]}")]
        learned = [*world.text("?!."[number % 3]), world.eos]
        made.append((given + learned, [-100] * len(given) + learned))
    return world.batch(made)


def markers_scored(rows: list[Row], marker: list[int]) -> list[Row]:
    """The marker of every turn is scored too."""
    made = []
    for ids, labels in rows:
        starts = [at for at in range(1, len(ids)) if labels[at] != -100 and labels[at - 1] == -100]
        known = {place for at in starts for place in range(at - len(marker), at)}
        made.append((ids, [ids[at] if at in known else label for at, label in enumerate(labels)]))
    return made


# fmt: off
add("marker_of_the_answer_scored", "answer-header-scored", "warning",
    lambda world: earlier(world.instructions(), len(world.text("### Response:\n")), world))
add("marker_of_every_turn_scored", "answer-header-scored", "warning",
    lambda world: world.batch(markers_scored(world.turns(), world.text("[/INST]"))))
add("colon_of_the_marker_scored", "prompt-end-scored", "warning",
    lambda world: earlier(world.chat("### Instruction:\n{}\n\n", "### Response:", [world.eos]), 1, world))
add("mask_measured_without_the_marker_and_more", "prompt-end-scored", "warning",
    lambda world: earlier(world.instructions(), len(world.text("### Response:\n")) + 8, world))
add("two_tokens_behind_a_wording_of_the_users_own", "answer-start-not-scored", "warning",
    lambda world: earlier(unspaced(world, "Question: {}\nAnswer:"), -2, world))
add("colon_of_the_prompt_scored", "prompt-end-scored", "warning",
    lambda world: earlier(unspaced(world, "Question: {}\nAnswer:"), 1, world))
add("question_mark_scored", "prompt-end-scored", "warning", lambda world: earlier(unspaced(world, "{}"), 1, world))
add("the_end_alone_scored", "answer-start-not-scored", "warning",
    lambda world: world.batch([(ids, [-100] * (len(ids) - 1) + ids[-1:]) for ids, _ in world.rows()]))
add("no_end_and_padded_left", "eos-missing", "error", lambda world: world.batch(world.rows(end=False), side="left"))
add("line_end_of_the_prompt_scored", "prompt-end-scored", "note", lambda world: earlier(world.rows(), 1, world))
add_good("answers_that_begin_alike",
    lambda world: world.of(lambda n, p, a: (f"{p}\nLet us think", f"step by step: {a}")).good())
# Code and lists begin with signs; what follows these is no word.
add_good("answers_in_brackets", lambda world: world.of(lambda n, p, a: (p, f"(({n}) + {a})")).good())
add_good("answers_that_begin_with_a_line_end", lambda world: earlier(world.rows(), 1, world), "prompt-end-scored")
# fmt: on


# ---------------------------------------------------------------- kinds of attention masks


@fault("attention-mask-kind", "warning", only=TWO)
def added_mask_in_lists_with_infinities(world):
    batch = world.good(side="left")
    lists = [[0.0 if shown else -float("inf") for shown in row] for row in batch["attention_mask"].tolist()]
    return {key: batch[key].tolist() for key in ("input_ids", "labels")} | {"attention_mask": lists}


@fault("attention-mask-kind", "warning", only=TWO)
def added_mask_in_bfloat16_of_a_batch_without_padding(world):
    batch = world.batch([(ids[-40:], labels[-40:]) for ids, labels in world.rows()])
    return batch | {"attention_mask": torch.zeros(batch["labels"].shape, dtype=torch.bfloat16)}


@good()
def a_table_that_is_added(world):
    batch = world.good(side="left")
    table = causal(batch)
    table |= ~table.any(dim=-1, keepdim=True)  # as transformers: rows that would read nothing read everything
    return batch | {"attention_mask": added(table)}


@good()
def a_prompt_that_is_read_in_both_directions(world):
    """A prefix language model: the answer is causal."""
    batch = world.good()
    prompts = (batch["labels"] == -100) & batch["attention_mask"].bool()
    return batch | {"attention_mask": causal(batch) | (prompts[:, None, :, None] & prompts[:, None, None, :])}


# fmt: off
add("added_mask_of_one_number_a_token", "attention-mask-kind", "warning",
    changed(lambda batch: {"attention_mask": added(batch["attention_mask"] == 1)}), only=TWO)
add("table_of_padding_alone", "attention-mask-looks-ahead", "warning",
    changed(lambda batch: {"attention_mask": batch["attention_mask"].bool()[:, None, None].expand_as(causal(batch))}),
    only=TWO)
add("added_mask_of_integers", "attention-mask-kind", "warning",
    changed(lambda batch: {"attention_mask": -10_000 * (1 - batch["attention_mask"])}), only=TWO)
add("table_of_zeros_and_ones_in_floats", "attention-mask-kind", "warning",
    changed(lambda batch: {"attention_mask": causal(batch).float()}), only=TWO)
add("booleans_say_what_is_padding", "attention-mask-inverted", "warning",
    changed(lambda batch: {"attention_mask": batch["attention_mask"] == 0}), only=TWO)
add("everything_is_hidden", "attention-mask-inverted", "warning",
    changed(lambda batch: {"attention_mask": torch.zeros_like(batch["attention_mask"])}), only=TWO)
add("table_says_what_is_hidden", "attention-mask-inverted", "warning",
    changed(lambda batch: {"attention_mask": ~causal(batch)}), only=TWO)
add("added_table_hides_what_came_before", "attention-mask-inverted", "warning",
    changed(lambda batch: {"attention_mask": added(~causal(batch))}), only=TWO)
add("added_mask_of_four_dimensions_without_queries", "attention-mask-looks-ahead", "warning",
    changed(lambda batch: {"attention_mask": added(batch["attention_mask"].bool()[:, None, None, :])}), only=TWO)
add_good("floats_of_zero_and_one", changed(lambda batch: {"attention_mask": batch["attention_mask"].float()}))
add_good("a_table_of_booleans", changed(lambda batch: {"attention_mask": causal(batch)}))
add_good("a_table_of_three_dimensions", changed(lambda batch: {"attention_mask": added(causal(batch)[:, 0])}))
# fmt: on


# ---------------------------------------------------------------- labels of short answers


# fmt: off
add("short_answers_padded_on_two_sides", "labels-misaligned", "error",
    lambda world: two_sided(world, world.of(lambda n, p, a: (p, ("yes", "no")[n % 2])).rows()))
# More rows than a search of every offset had time for.
add("many_rows_padded_on_two_sides", "labels-misaligned", "error",
    lambda world: two_sided(
        world, [tuple(part[: 80 + n] for part in world.rows(1, first=n % 24)[0]) for n in range(60)]))
add("long_and_short_answers_padded_on_two_sides", "labels-misaligned", "error",
    lambda world: two_sided(world, world.of(lambda n, p, a: (p, "7" if n % 3 == 0 else a)).rows()))
add("short_answers_at_prompt_positions", "answer-at-prompt-positions", "error",
    lambda world: prompt_in_answer_out(world.of(lambda n, p, a: (p, ("yes", "no", "maybe")[n % 3]))))
# fmt: on


# ---------------------------------------------------------------- turns and positions

CHAT = "<|im_start|>{}\n{}<|im_end|>\n"


def conversations(world: World, scored: str) -> Batch:
    """[system, user, tool, answer]; of `scored` the tokens are scored too."""
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
            learned = role in ("answer", scored)
            ids, labels = ids + piece, labels + (piece if learned else [-100] * len(piece))
        made.append(([*ids, world.eos], [*labels, world.eos]))
    return world.batch(made)


@good(learns="text")
def positions_of_later_windows(world):
    """Windows of one text, half of which overlaps the one before: the batch holds the later ones."""
    stream = world.stream()
    starts = torch.arange(0, 8 * 32, 32) + 64
    ids = torch.stack([torch.tensor(stream[at : at + 64]) for at in starts.tolist()])
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": starts[:, None] + torch.arange(64)}


# fmt: off
add("system_turns_scored", "prompt-in-loss", "error",
    lambda world: conversations(world, "system"), only=TWO, learns="answers")
add("results_of_tools_scored", "prompt-in-loss", "warning", lambda world: conversations(world, "tool"), only=TWO)
add("positions_run_on_through_the_batch", "positions-wrong", "warning",
    changed(lambda batch: {"position_ids": torch.arange(batch["labels"].numel()).view_as(batch["labels"])}))
# fmt: on
