"""`distillab doctor preflight`, and the examination that `distillab compare` makes before its first run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from distillab import progress
from distillab.config import RunRecipe, StudyRecipe
from distillab.preflight.recipe import audit_recipe, audit_study
from distillab.records import Investigation, StudyResults, read_record
from distillab.report.findings import concluded
from distillab.study.study import Study
from tests.cli.conftest import Run

Recipe = Callable[..., str]
FIRST = "Before the first run"
# in a loss that no parameter has a part in, each with its error
BLIND = [{"kind": "token_divergence", "temperature": 1e30}]


@pytest.fixture
def values(tiny_world: dict[str, Any]) -> dict[str, Any]:
    """A study of two arms and one seed, of few steps."""
    evaluation = {**tiny_world["evaluation"], "rows": 6, "curve_rows": 4, "generate_rows": 2}
    return {**tiny_world, "arms": ["sft", "logits"], "seeds": [0], "evaluation": evaluation}


@pytest.fixture
def study_file(tmp_path: Path, values: dict[str, Any]) -> Recipe:
    """Write the study with changes, and return its path."""

    def write(**changes: Any) -> str:
        path = tmp_path / "study.yaml"
        with path.open("w") as stream:
            YAML(typ="safe", pure=True).dump({**values, "output": str(tmp_path / "study"), **changes}, stream)
        return str(path)

    return write


def test_compare_examines_first_and_keeps_what_it_found(run: Run, study_file: Recipe, tmp_path: Path) -> None:
    path, folder = study_file(), tmp_path / "study"
    code, out, err = run("compare", path)
    assert code == 0, out + err
    assert out.index(FIRST) < out.index("Report:")
    kept = read_record(Investigation, folder / "doctor.json")
    results = read_record(StudyResults, folder / "results.json")
    assert results.investigation == kept and kept.skipped is None
    assert kept.pairing is not None and kept.pairing.contract.verdict == "identical"
    checks = {one.check for one in kept.checks}
    assert {"tokenizers", "answer lengths", "first steps", "costs"} <= checks
    assert "--no-doctor" not in results.reproduce
    # the same command does not examine again, whether the study is finished or not
    (folder / "results.json").unlink()
    code, out, err = run("compare", path)
    assert code == 0 and FIRST not in out, out + err
    assert read_record(StudyResults, folder / "results.json").investigation == kept


def test_an_error_ends_the_study_before_anything_is_written(run: Run, study_file: Recipe, tmp_path: Path) -> None:
    arms = ["sft", {"name": "logits", "method": "logits", "terms": BLIND}]
    path, folder = study_file(arms=arms), tmp_path / "study"
    code, out, err = run("compare", path)
    assert code == 1 and "error: parameters-without-gradient" in out and "--no-doctor" in out, err
    assert not folder.exists()
    code, out, err = run("compare", path, "--no-doctor")
    assert code == 0 and FIRST not in out, out + err
    results = read_record(StudyResults, folder / "results.json")
    assert results.investigation is not None and results.investigation.skipped == "--no-doctor"
    assert results.reproduce.endswith("--no-doctor")
    # what was left out can be made up for; and here it still has an error
    code, out, err = run("compare", path)
    assert code == 1 and "parameters-without-gradient" in out, err


def test_a_folder_of_another_study_is_refused_before_the_examination(
    run: Run, study_file: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    code, out, err = run("compare", study_file())
    assert code == 2 and FIRST not in out and "not empty" in err


def test_the_command_of_a_run_writes_what_it_found(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(method="logits", terms=BLIND)
    code, _, err = run("doctor", "preflight", path, "--json", str(tmp_path / "found.json"))
    assert code == 1, err
    found = read_record(Investigation, tmp_path / "found.json")
    assert [finding.id for finding in found.findings if finding.severity == "error"] == ["parameters-without-gradient"]
    assert not (tmp_path / "run").exists()
    assert json.loads((tmp_path / "found.json").read_text())["pairing"]["contract"]["verdict"] == "identical"


def test_models_that_take_too_long_to_load_are_not_loaded(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    found = audit_recipe(RunRecipe(**values, method="logits", output=str(tmp_path / "run")), limit_s=1e-6)
    [arms] = [one for one in found.checks if one.check == "arms"]
    assert "--seconds" in str(arms.skipped)
    assert not [finding for finding in found.findings if finding.severity == "error"]
    assert not [one for one in found.checks if one.check == "first steps"]


def test_the_limit_covers_rows_and_pair_too_and_nobody_is_sent_to_the_same_command(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    recipe = RunRecipe(**values, method="logits", output=str(tmp_path / "run"))
    late, whole = (audit_recipe(recipe, limit_s=limit_s) for limit_s in (1e-6, 600.0))
    rows = [one for one in late.checks if one.check in ("rows", "answer lengths")]
    assert [one.check for one in rows] == ["rows"] and "--seconds" in str(rows[0].skipped)
    # the tokenizers are compared all the same: that is cheap, and refuses most of what cannot be
    assert late.pairing is not None and "tokenizers" in {one.check for one in late.checks}
    names = [one.check for one in whole.checks]
    telling = ["arms", "answer lengths", "tokenizers", "cache", "first steps", "gradient"]
    dear = ["costs", "teacher's mode", "BOS token", "teacher's knowledge"]
    assert [name for name in names if name in {*telling, *dear}] == [*telling, *dear]
    for found in (late, whole):
        conclusions = concluded(found).conclusions
        assert conclusions is not None
        assert not [step for phase in conclusions.phases for step in phase.steps if "preflight RECIPE" in step]


def test_a_long_examination_shows_which_probe_is_at_work(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.0)
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    audit_recipe(RunRecipe(**values, method="sft", output=str(tmp_path / "run")), limit_s=600.0)
    shown = capsys.readouterr().err
    for check in ("rows", "tokenizers", "cache", "first steps", "teacher's knowledge"):
        assert f"now: {check}" in shown
    assert "11/12 checks" in shown


def test_failures_on_purpose_are_no_findings(values: dict[str, Any], stranger: str, tmp_path: Path) -> None:
    wrong = {"name": "wrong", "method": "logits", "teacher": {"path": stranger}}
    planted = {"name": "planted", "method": "sft", "shown_failure": "predicts something else"}
    recipe = StudyRecipe(**{**values, "arms": ["sft", wrong, planted], "output": str(tmp_path / "study")})
    study = Study(recipe, reproduce="", collators={"planted": lambda pad_id: pytest.fail("no batch is made")})
    found = audit_study(study.showing_mismatches())
    assert not [finding.id for finding in found.findings if finding.severity == "error"]
    [arms] = [one for one in found.checks if one.check == "arms"]
    assert "wrong" in str(arms.skipped) and "predicts something else" in str(arms.skipped)


def test_a_refused_arm_is_an_error_of_the_pair(values: dict[str, Any], stranger: str, tmp_path: Path) -> None:
    wrong = {"name": "wrong", "method": "logits", "teacher": {"path": stranger}}
    recipe = StudyRecipe(**{**values, "arms": ["sft", wrong], "output": str(tmp_path / "study")})
    found = audit_recipe(recipe)
    assert [finding.id for finding in found.findings if finding.severity == "error"]
