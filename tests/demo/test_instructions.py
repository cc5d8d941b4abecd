"""Instructions with exact answers: computed again from the prompt alone, and captured by the recipe's pattern."""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from distillab.cli.recipes import load_any
from distillab.demo.instructions import KINDS, Instruction, draw_instructions
from distillab.errors import ConfigError, DataError
from distillab.evaluation.values import captured, same_value

ROWS = draw_instructions(660, seed=0)
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "real-smollm2.yaml"
METRIC = {"kilometres": 1000, "metres": 1, "centimetres": 0.01, "millimetres": 0.001, "litres": 1, "millilitres": 0.001,
          "kilograms": 1000, "grams": 1, "weeks": 604_800, "days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1,
          "dozens": 12, "pieces": 1}  # fmt: skip


def _numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


def _change(row: Instruction) -> int:
    count, price, paid = _numbers(row.prompt)
    return paid - sum([price] * count)


def _units(row: Instruction) -> int:
    found = re.fullmatch(r"Convert (\d+) (\w+) to (\w+)\.", row.prompt)
    assert found is not None
    return round(int(found[1]) * METRIC[found[2]] / METRIC[found[3]])


def _next(row: Instruction) -> str:
    names = list(calendar.day_name) if " day " in row.prompt else list(calendar.month_name)[1:]
    at = next(i for i, name in enumerate(names) if name in row.prompt)
    return [*names, *names][at + 1] if " after " in row.prompt else names[at - 1]


def _sorted_numbers(row: Instruction) -> str:
    ordered = sorted(_numbers(row.given))
    return str(ordered[::-1] if "from largest" in row.instruction else ordered)[1:-1]


EXPECTED: dict[str, Callable[[Instruction], object]] = {
    "add": lambda row: sum(_numbers(row.prompt)),
    "subtract": lambda row: _numbers(row.prompt)[0] - _numbers(row.prompt)[1],
    "multiply": lambda row: math.prod(_numbers(row.prompt)),
    "change": _change,
    "sort_numbers": _sorted_numbers,
    "sort_words": lambda row: ", ".join(sorted(row.given.split(", "))),
    "extreme": lambda row: (max if "largest" in row.instruction else min)(_numbers(row.given)),
    "units": _units,
    "next": _next,
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_value_follows_from_the_prompt(kind: str) -> None:
    rows = [row for row in ROWS if row.kind == kind]
    assert len(rows) == 660 / len(KINDS)
    for row in rows:
        assert row.value == str(EXPECTED[kind](row)), row


def test_the_recipe_captures_the_value_of_every_answer() -> None:
    pattern = load_any(RECIPE, []).evaluation.value_pattern
    assert pattern is not None
    for row in ROWS:
        assert same_value(captured(row.output, pattern), row.value, kind="number"), row
    # as a pretrained model answers, in other words
    for answer, value in {
        "There are 6 boxes, so there are 6 x 7 = 42 pencils in total.": "42",
        "9 - 2 = 7 shells\n#### 7\nThe answer is: 7": "7",
        "The plural of 'leaf' is 'leaves'.": "leaves",
    }.items():
        assert same_value(captured(answer, pattern), value, kind="number")


def test_equal_arguments_give_equal_rows_and_no_prompt_is_there_twice() -> None:
    assert draw_instructions(30, seed=1) == draw_instructions(30, seed=1) != draw_instructions(30, seed=2)
    assert draw_instructions(30, seed=1) == draw_instructions(60, seed=1)[:30]
    assert len({row.prompt for row in ROWS}) == len(ROWS)
    assert {row.kind for row in ROWS} == set(KINDS)


def test_too_many_or_too_few_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        draw_instructions(0, seed=0)
    with pytest.raises(DataError, match="too few different instructions of the kind review"):
        draw_instructions(2000, seed=0)
