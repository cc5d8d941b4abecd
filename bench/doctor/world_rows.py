"""Rows in files, in the columns of several trainers; a fault changes the rows."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from bench.doctor.case import Place
from bench.doctor.grammar import Mutations, Random, World
from bench.doctor.rows import as_csv, as_json_lines, sums
from bench.doctor.world_batch import TEMPLATES
from distillab.data.reading import Reader, load_reader
from distillab.doctor import audit_data
from distillab.files import read_json_lines
from distillab.records import CheckResult

Pairs = list[tuple[str, str]]
RULES: Mutations[DataFile] = Mutations()
_COLUMNS = {
    "trl-sft": ("prompt", "completion"),
    "llama-factory": ("instruction", "output"),
    "axolotl": ("question", "answer"),
    "ours": ("prompt", "answer"),
}


@dataclass(frozen=True)
class DataFile:
    """Training rows and held-out rows of one source. of_train and of_held_out: changes; the second gets both parts."""

    trainer: str
    source: str
    tokenizer: str
    form: str
    count: int
    judged: int
    of_train: tuple[Callable[[Pairs], Pairs], ...] = ()
    of_held_out: tuple[Callable[[Pairs, Pairs], Pairs], ...] = ()


def draw_data(draw: Random) -> DataFile:
    """Worked sums, instructions or seeds of Self-Instruct, in the columns of a trainer."""
    trainer = draw.choice((*_COLUMNS, "trl-gkd"))
    source, most = draw.choice((("sums", 300), ("sums", 300), ("dolly", 300), ("self-instruct", 130)))
    return DataFile(
        trainer,
        source,
        draw.choice(("tinyllama-1.1b", "tok512")),
        draw.choice(("jsonl", "csv")) if trainer != "trl-gkd" else "jsonl",
        count=draw.randrange(most // 2, most),
        judged=draw.choice((0, 30, 40)),
    )


@cache
def _texts(place: Place, source: str) -> Pairs:
    if source == "sums":
        return [(p.removeprefix("Question: ").removesuffix("\nAnswer:"), a.strip()) for p, a in sums(place, 400)]
    if source == "dolly":
        rows = read_json_lines(place.material("text", "dolly", "dev.jsonl"))[:400]
        return [(row["prompt"], row["output"]) for row in rows]
    rows = read_json_lines(place.material("text", "self-instruct", "seed_tasks.jsonl"))
    return [
        (f"{row['instruction']}\n{row['instances'][0]['input']}".strip(), row["instances"][0]["output"]) for row in rows
    ]


@cache
def _reader(folder: str) -> Reader:
    return load_reader(folder, revision=None, template="auto", kind="pair", max_tokens=1024)


def _written(made: DataFile, pairs: Pairs, path: Path) -> Path:
    if made.trainer == "trl-gkd":
        rows: list[dict[str, object]] = [
            {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": a}]} for p, a in pairs
        ]
    else:
        names = _COLUMNS[made.trainer]
        rows = [dict(zip(names, pair, strict=True)) for pair in pairs]
    return as_csv(rows, path.with_suffix(".csv")) if made.form == "csv" else as_json_lines(rows, path)


def examine_data(made: DataFile, place: Place) -> Sequence[CheckResult]:
    """The doctor's checks of the files."""
    pairs = _texts(replace(place, scratch=place.material()), made.source)
    train, held_out = pairs[: made.count], pairs[made.count : made.count + made.judged]
    for alter in made.of_held_out:
        held_out = alter(held_out, train)
    for change in made.of_train:
        train = change(train)
    reader = _reader(str(place.material("tokenizers", made.tokenizer)))
    judged = _written(made, held_out, place.scratch / "held_out.jsonl") if held_out else ()
    return audit_data(_written(made, train, place.scratch / "train.jsonl"), reader, held_out=judged).checks


def _train(made: DataFile, change: Callable[[Pairs], Pairs]) -> DataFile:
    return replace(made, of_train=(*made.of_train, change))


def _each(made: DataFile, change: Callable[[str, str], tuple[str, str]], every: int = 1) -> DataFile:
    """A change to every so many rows."""
    return _train(made, lambda rows: [change(*row) if n % every == 0 else row for n, row in enumerate(rows)])


def _instructions(made: DataFile) -> bool:
    return made.source != "self-instruct"


@RULES.rule("data", "train-held-out-overlap", fits=lambda made: made.judged > 0)
def held_out_rows_in_train(made: DataFile, draw: Random) -> DataFile:
    """Split after they were doubled; some, or all of them."""
    share = draw.choice((0.1, 0.3, 1.0))

    def change(held_out: Pairs, train: Pairs) -> Pairs:
        count = max(2, round(share * len(held_out)))
        return [*train[5 : 5 + count], *held_out[count:]]

    return replace(made, of_held_out=(change,))


@RULES.rule("data", "held-out-prompts-in-train train-held-out-overlap", fits=lambda made: made.judged > 0)
def held_out_prompts_in_train(made: DataFile, draw: Random) -> DataFile:
    """Several answers a prompt, split by row."""

    def change(held_out: Pairs, train: Pairs) -> Pairs:
        return [(p, a) for (p, _), (_, a) in zip(train, held_out, strict=False)]

    return replace(made, of_held_out=(change,))


@RULES.rule("data", "duplicated-rows")
def rows_read_twice(made: DataFile, draw: Random) -> DataFile:
    """A file and its copy, or a part of it."""
    share = draw.choice((0.2, 0.5, 1.0))
    return _train(made, lambda rows: rows + rows[: round(share * len(rows))])


@RULES.rule("data", "answers-empty")
def answers_lost(made: DataFile, draw: Random) -> DataFile:
    """Of some rows."""
    empty = draw.choice(("", " ", "\n"))
    return _each(made, lambda p, a: (p, empty), draw.choice((3, 6, 10)))


@RULES.rule("data", "text-damaged")
def read_in_another_encoding(made: DataFile, draw: Random) -> DataFile:
    """UTF-8 read as Latin-1 or cp1252, in some rows or all."""
    codec, every = draw.choice(("latin-1", "cp1252")), draw.choice((1, 3))
    sign = draw.choice(("the café’s “menu”: ", "naïve – or “clever”: ", "façade, déjà vu… "))
    damaged = sign.encode().decode(codec, "replace")
    return _each(made, lambda p, a: (p, damaged + a), every)


@RULES.rule("data", "text-escaped")
def never_unescaped(made: DataFile, draw: Random) -> DataFile:
    """Entities of a web page, or line ends of JSON."""
    if draw.random() < 0.5:
        return _each(made, lambda p, a: (p, html.escape(f'It\'s "so" & done:\n{a}').replace("\n", "&lt;br&gt;")))
    return _each(made, lambda p, a: (p.replace("\n", "\\n"), f"First:\\n\\n{a}".replace("\n", "\\n")))


@RULES.rule("data", "texts-cut-at-length", fits=_instructions)
def cut_at_a_number_of_characters(made: DataFile, draw: Random) -> DataFile:
    """A column of a fixed width."""
    width = draw.choice((100, 128, 150, 200))
    return _each(made, lambda p, a: (p, a[:width]))


@RULES.rule("data", "answers-of-other-prompts", fits=_instructions)
def answers_of_other_rows(made: DataFile, draw: Random) -> DataFile:
    """Some lines late or early."""
    by = draw.choice((-3, -1, 1, 2, 5))
    return _train(made, lambda rows: [(p, rows[(n - by) % len(rows)][1]) for n, (p, _) in enumerate(rows)])


@RULES.rule("data", "prompts-contain-answers", fits=_instructions)
def answers_in_the_prompts(made: DataFile, draw: Random) -> DataFile:
    """The whole text is the prompt's column."""
    between = draw.choice(("\n", "\n\nAnswer: ", " "))
    return _each(made, lambda p, a: (p + between + a, a))


@RULES.rule("data", "answers-equal")
def a_default_for_many_answers(made: DataFile, draw: Random) -> DataFile:
    """What an API says where it fails."""
    text = draw.choice(("I am sorry, I cannot help with that.", "None", "Error: rate limit reached."))
    return _train(made, lambda rows: [(p, a if n % 4 == 0 else text) for n, (p, a) in enumerate(rows)])


@RULES.rule("template", "prompts-already-rendered markers-in-text")
def prompts_rendered_before(made: DataFile, draw: Random) -> DataFile:
    """A template will be put around another."""
    before, between, _ = TEMPLATES[draw.choice(("chatml", "inst", "gemma", "llama3", "alpaca"))]
    return _each(made, lambda p, a: (before + p + between, a))


@RULES.rule("template", "markers-in-text")
def markers_in_the_answers(made: DataFile, draw: Random) -> DataFile:
    """The answers end with a marker in words."""
    marker = draw.choice(("<|im_end|>", "<|eot_id|>", "</s>", "<|endoftext|>", "<end_of_turn>"))
    return _each(made, lambda p, a: (p, a + marker), draw.choice((1, 2)))


@RULES.rule("template", "markers-in-text")
def the_next_turn_in_the_answers(made: DataFile, draw: Random) -> DataFile:
    """A transcript that was split at the first turn only."""
    asks, says = draw.choice((("User:", "Assistant:"), ("Human:", "AI:"), ("### Instruction:", "### Response:")))
    return _train(
        made,
        lambda rows: [
            (p, f"{a}\n\n{asks} {rows[n - 1][0]}\n\n{says} {rows[n - 1][1]}") for n, (p, a) in enumerate(rows)
        ],
    )


DATA = World("data", draw_data, lambda made: made.trainer, examine_data, RULES)
