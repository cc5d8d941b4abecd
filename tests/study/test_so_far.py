"""The results of a study while it runs: what is shown when, and that the order of the runs changes no figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from distillab.cli.console import report_so_far
from distillab.config.study import StudyRecipe
from distillab.records import StudyResults
from distillab.report import write_report
from distillab.runs.folder import read_held_out
from distillab.study.order import first_comparison, in_stages
from distillab.study.so_far import ResultsSoFar
from distillab.study.study import Study
from tests.report.fixture import study as invented_study

# a shown failure stands first, as in the demo
ARMS = [
    {"name": "broken", "method": "sft", "shown_failure": "nothing is broken here"},
    "sft",
    "seqkd",
    "logits",
]


def _recipe(values: dict[str, Any], output: Path, **changes: Any) -> StudyRecipe:
    return StudyRecipe(**{**values, "arms": ARMS, "output": str(output), **changes})


def _figures(results: StudyResults) -> dict[str, object]:
    """All that runs decide, without its time and memory."""
    return {arm.name: (arm.evaluations, arm.curves, arm.comparisons) for arm in results.arms}


def test_the_first_comparison_is_shown_first_and_the_end_says_nothing_is_left(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillab.study.so_far._PAUSE", 0)
    shown: list[StudyResults] = []
    recipe = _recipe(tiny_world, tmp_path / "study")
    results = Study(recipe, reproduce="", on_results=shown.append).run()
    first = shown[0]
    assert [arm.name for arm in first.arms] == ["sft", "logits"]
    assert all(arm.seeds == recipe.seeds[:1] for arm in first.arms)
    assert first.arms[1].against_sft is not None
    assert first.pending["seqkd"] == recipe.seeds and first.pending["logits"] == recipe.seeds[1:]
    # a comparison is over the seeds that both have
    done = [{arm.name: arm.seeds for arm in each.arms} for each in shown]
    for seeds, each in zip(done, shown, strict=True):
        for arm in each.arms:
            if arm.against_sft is not None:
                assert arm.against_sft.seeds == len(set(seeds[arm.name]) & set(seeds["sft"]))
    assert [sum(map(len, seeds.values())) for seeds in done] == list(range(2, 8))
    assert not results.pending and [arm.name for arm in results.arms] == ["broken", "sft", "seqkd", "logits"]
    view = results.token_view
    assert view is not None and set(view.probs) == {"undistilled", "teacher", *(arm.name for arm in results.arms)}
    for place, name in ((tmp_path / "study/runs/logits/seed0", "logits"), (tmp_path / "study/baselines", "teacher")):
        line, *_ = read_held_out(place / ("held_out.jsonl" if name == "logits" else "teacher-teacher.jsonl"))
        nats = [-math.log(prob) for prob in view.probs[name]]
        assert len(nats) == line["tokens"] == len(view.tokens)
        assert sum(nats) == pytest.approx(line["nats"], rel=1e-2)  # the probabilities have six decimals
    assert "".join(view.tokens).startswith(results.samples[0].reference)
    assert not (tmp_path / "study" / "report.html").exists()  # who gets the results writes it

    page = write_report(first, tmp_path)[1].read_text(encoding="utf-8")
    assert "Not finished: 2 of 8 runs are done. Still to come: broken (seeds 0, 1), sft (seed 1), seqkd" in page
    assert "Not finished" not in write_report(results, tmp_path)[1].read_text(encoding="utf-8")

    again = _recipe(tiny_world, tmp_path / "again", arms=[ARMS[3], ARMS[1], ARMS[2], ARMS[0]])
    assert _figures(Study(again, reproduce="").run()) == _figures(results)


def test_a_report_that_cannot_be_written_ends_no_study(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distillab.study.so_far._PAUSE", 0)
    (tmp_path / "report").write_text("a file in the place of the report's folder")
    recipe = _recipe(tiny_world, tmp_path / "study", arms=["sft", "logits"])
    results = Study(recipe, reproduce="", on_results=report_so_far(tmp_path / "report")).run()
    assert [arm.seeds for arm in results.arms] == [recipe.seeds, recipe.seeds]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(told) == 2 and all("NotADirectoryError" in line and "The study goes on" in line for line in told), told


def test_the_order_of_runs(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    recipe = _recipe(tiny_world, tmp_path)
    runs = [(arm, seed) for seed in recipe.seeds for arm in recipe.arms]
    stages = [[(arm.name, seed) for arm, seed in stage] for stage in in_stages(runs, runs, workers=2)]
    assert stages == [
        [("sft", 0), ("logits", 0)],
        [("seqkd", 0), ("broken", 0), ("sft", 1), ("seqkd", 1), ("logits", 1), ("broken", 1)],
    ]
    (whole,) = in_stages(runs, runs, workers=3)
    assert [(arm.name, seed) for arm, seed in whole] == [*stages[0], *stages[1]]
    assert in_stages(runs, [], workers=1) == []
    only_sft = [run for run in runs if run[0].name in ("sft", "broken")]
    assert first_comparison(only_sft) == []
    others = [run for run in runs if run[0].name != "logits"]
    assert [arm.name for arm, _ in first_comparison(others)] == ["sft", "seqkd"]


def test_results_are_shown_when_runs_have_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    now, numbers = [0.0], [0]
    shown: list[StudyResults] = []
    monkeypatch.setattr("distillab.study.so_far.time.monotonic", lambda: now[0])

    def assemble() -> StudyResults | None:
        now[0] += 2.0
        return invented_study() if numbers[0] > 1 else None

    so_far = ResultsSoFar(lambda: numbers[0], assemble, shown.append)
    for seconds, number in ((0, 0), (5, 1), (30, 2), (60, 2), (120, 3), (121, 4), (170, 4)):
        now[0], numbers[0] = float(seconds), number
        so_far.update()
    # one run compares nothing; the fourth is shown later, because making the results takes two seconds
    assert len(shown) == 2 + 1
