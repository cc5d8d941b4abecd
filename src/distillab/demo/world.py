"""Write the demo world: a large labelled set for the teachers, a small one for the students, held-out rows."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distillab.demo.tasks import ANSWER_WEIGHTS, OPENERS, TASKS, Task
from distillab.errors import ConfigError, DataError
from distillab.files import write_json_lines

VALUE_PATTERN = r"(\S+)\.\s*$"
"""Captures the value of an answer: its last word, without the full stop."""

Split = Literal["teacher", "train", "held_out"]

_HELD_OUT_SHARE = 5
"""One prompt of this many is held out."""
_PATIENCE = 200
"""Draws for a row before the world counts as exhausted."""


@dataclass(frozen=True)
class WorldFiles:
    """The three files of a world; every row has the columns `prompt` and `answer`."""

    teacher: Path
    train: Path
    held_out: Path


def draw_row(task: Task, rng: random.Random, *, labelled_facts_only: bool) -> dict[str, str]:
    """Draw one question of a kind and one of its answers.

    Args:
        task: the kind of question.
        rng: random generator.
        labelled_facts_only: draw facts only from the part that the small labelled set can contain.
    Returns:
        a row with `prompt` and `answer`.
    """
    fields, value = task.draw(rng, labelled_facts_only)
    which = rng.randrange(len(task.questions))
    # Rotating the weights makes the likely answer wording depend on the question wording.
    turn = which % len(ANSWER_WEIGHTS)
    weights = ANSWER_WEIGHTS[-turn:] + ANSWER_WEIGHTS[:-turn]
    body = rng.choices(task.answers, weights=weights)[0].format(value=value)
    opener = rng.choices([text for text, _ in OPENERS], weights=[weight for _, weight in OPENERS])[0]
    answer = opener + body
    return {"prompt": task.questions[which].format_map(fields), "answer": answer[0].upper() + answer[1:]}


def is_held_out(prompt: str, seed: int) -> bool:
    """Return whether a prompt belongs to the held-out rows: by a hash, so that it is in one split alone."""
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _HELD_OUT_SHARE == 0


def draw_rows(split: Split, count: int, *, seed: int) -> list[dict[str, str]]:
    """Draw the rows of one split; every kind of question is equally likely until it has no new one left.

    Prompts of `train` and `held_out` do not repeat; those of `teacher` can, with other answer wordings, and they
    include prompts of `train`. A held-out prompt is in no other split, but its fact, or its sum, can be there in
    other words: facts cannot be learned otherwise.

    Args:
        split: which rows.
        count: how many.
        seed: of the world; another seed gives other rows and another border between the splits.
    Raises:
        ConfigError: `count` is below 1.
        DataError: there are not enough different prompts for `count` rows.
    """
    if count < 1:
        raise ConfigError("A split of the demo world needs at least one row.", facts=[f"{split}: {count} rows"])
    rng = random.Random(f"{seed}/{split}")
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for _ in range(count):
        for _ in range(_PATIENCE):
            row = draw_row(rng.choice(TASKS), rng, labelled_facts_only=split == "train")
            prompt = row["prompt"]
            if is_held_out(prompt, seed) == (split == "held_out") and (split == "teacher" or prompt not in seen):
                break
        else:
            raise DataError(
                f"The demo world has too few different questions for {count} {split} rows.",
                facts=[f"rows drawn so far: {len(rows)}"],
                fix="use fewer rows",
            )
        seen.add(prompt)
        rows.append(row)
    return rows


def world_files(folder: Path) -> WorldFiles:
    """Return the files of the world in `folder`."""
    return WorldFiles(folder / "teacher.jsonl", folder / "train.jsonl", folder / "held_out.jsonl")


def write_world(folder: Path, *, seed: int, teacher_rows: int, student_rows: int, held_out_rows: int) -> WorldFiles:
    """Write `teacher.jsonl`, `train.jsonl` and `held_out.jsonl`; the same arguments give the same bytes.

    Args:
        folder: where to; made if absent.
        seed: of the world.
        teacher_rows: size of the teachers' set, in rows.
        student_rows: size of the students' small labelled set.
        held_out_rows: size of the set that all models are evaluated on.
    Raises:
        ConfigError: a size is below 1.
        DataError: a split needs more different prompts than there are.
    """
    files = world_files(folder)
    sizes: tuple[tuple[Split, Path, int], ...] = (
        ("teacher", files.teacher, teacher_rows),
        ("train", files.train, student_rows),
        ("held_out", files.held_out, held_out_rows),
    )
    for split, path, count in sizes:
        write_json_lines(path, draw_rows(split, count, seed=seed))
    return files


def value_of(answer: str) -> str | None:
    """Return the value of an answer, or None if it has none.

    >>> value_of("Sure, that makes 12.")
    '12'
    """
    found = re.search(VALUE_PATTERN, answer)
    return found.group(1) if found else None
