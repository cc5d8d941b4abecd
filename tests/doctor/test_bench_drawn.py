"""The generator of faults: the same seed gives the same cases, and every rule changes what it is applied to."""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.doctor.case import Place
from bench.doctor.drawn import REPORTED, WORLDS, by_kind, draw_cases, interval
from bench.doctor.grammar import KINDS, Mutation, World
from bench.doctor.rules_loss import LOSSES
from bench.doctor.rules_texts import BATCHES
from bench.doctor.score import run_cases
from bench.doctor.world_batch import make_batches

from distillab.doctor.checks import FOLDER

RULES = [(world, rule) for world in WORLDS for rule in world.mutations]


def _good(world: World[Any], rule: Mutation[Any], seed: int) -> Any:
    draw = random.Random(seed)
    return next(made for made in (world.draw(draw) for _ in range(1000)) if rule.fits(made))


def test_a_seed_gives_one_draw_and_another_seed_another() -> None:
    names = [[case.name for case in draw_cases(seed, faults=90, good=30)] for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]
    assert len(set(names[0])) == 120
    assert {kind: sum(name.startswith(kind) for name in names[0]) for kind in KINDS} == dict.fromkeys(KINDS, 10)


def test_every_right_id_has_a_page_and_every_name_is_its_own() -> None:
    pages = {page.stem for page in FOLDER.glob("*.md")}
    assert {name for _, rule in RULES for name in rule.expected | rule.beside} - pages == set()
    names = [f"{world.audit} {rule.name}" for world, rule in RULES]
    assert len(set(names)) == len(names)
    assert {rule.kind for _, rule in RULES} == set(KINDS)


@pytest.mark.parametrize(("world", "rule"), RULES, ids=[f"{w.audit}-{r.name}" for w, r in RULES])
def test_every_rule_fits_some_set_up_and_changes_it(world: World[Any], rule: Mutation[Any]) -> None:
    made = _good(world, rule, 5)
    changed = rule.change(made, random.Random(1))
    assert [one.name for one in fields(made) if getattr(made, one.name) is not getattr(changed, one.name)]


@pytest.mark.parametrize("rule", BATCHES.mutations[::4], ids=[rule.name for rule in BATCHES.mutations[::4]])
def test_a_fault_of_batches_reaches_the_tensors(rule: Mutation[Any], materials: Path, tmp_path: Path) -> None:
    place, made = Place(materials, tmp_path), _good(BATCHES, rule, 3)
    before, after = make_batches(made, place), make_batches(rule.change(made, random.Random(1)), place)
    assert not all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(before, after, strict=True)
    )


def test_losses_of_a_few_rules_and_good_ones(tmp_path: Path) -> None:
    cases = [case for case in draw_cases(4, faults=54, good=40) if case.audit == LOSSES.audit]
    judged = run_cases(cases[::3], Place(tmp_path, tmp_path))
    assert len(judged) > 5
    assert [one.case.name for one in judged if one.false_errors] == []
    assert sum(one.verdict in ("found", "good") for one in judged) >= 0.8 * len(judged)
    assert "| loss | " in by_kind(judged)


def test_the_interval_is_wilsons() -> None:
    low, high = interval(16, 25)
    assert (round(low, 3), round(high, 3)) == (0.445, 0.798)
    assert interval(0, 0) == (0.0, 1.0)
    assert REPORTED > 100
