"""Studies with a teacher behind llama.cpp's server give the figures of the same weights read here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from distillab.config import StudyRecipe
from distillab.config.models import RunRecipe
from distillab.errors import TeacherError
from distillab.records import Baseline, StudyResults
from distillab.runs.run import execute
from distillab.study.study import Study
from distillab.teachers.served.journal import ANSWERS
from tests.cli.conftest import call
from tests.served.conftest import llama_cpp

TOP_K = [{"kind": "top_k_divergence", "k": 16}]
# nobody listens there
NOWHERE = {"url": "http://127.0.0.1:9", "dialect": "llama_cpp"}


@pytest.fixture(scope="module")
def server(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The teacher of the tiny world behind a server, as a recipe names it."""
    path = tiny_world["teacher"]["path"]
    with llama_cpp(Path(path), tmp_path_factory.mktemp("tiny_server") / "log") as url:
        yield {"path": path, "server": {"url": url, "dialect": "llama_cpp"}}


def study(values: dict[str, Any], output: Path, **changes: Any) -> StudyRecipe:
    return StudyRecipe(**values | changes, output=str(output))


def point(results: StudyResults, name: str) -> Baseline:
    return next(one for one in results.baselines if one.name == name)


@pytest.fixture(scope="module")
def beside(
    tiny_world: dict[str, Any], server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[StudyResults, Path, StudyRecipe]:
    """A study with a served arm beside the same arm from the weights."""
    output = tmp_path_factory.mktemp("beside") / "study"
    arms = [
        "sft",
        {"name": "here", "method": "logits", "terms": TOP_K},
        {"name": "served", "method": "logits", "terms": TOP_K, "teacher": server},
    ]
    recipe = study(tiny_world, output, arms=arms)
    return Study(recipe, reproduce="x").run(), output, recipe


def test_a_served_arm_gives_the_figures_of_the_weights(beside: tuple[StudyResults, Path, StudyRecipe]) -> None:
    results, _, _ = beside
    arms = {arm.name: arm for arm in results.arms}
    for here, served in zip(arms["here"].evaluations, arms["served"].evaluations, strict=True):
        # the largest difference that was measured is 2e-5
        assert served.nats_per_token == pytest.approx(here.nats_per_token, abs=2e-4)
        kl = served.metric("kl_from_teacher")
        assert here.value("kl_from_teacher") is not None
        assert kl is not None and kl.missing is not None and "behind a server" in kl.missing
        own = served.metric("own_kl_from_teacher")
        assert own is not None and own.missing == kl.missing
    here_point, served_point = point(results, "teacher"), point(results, "teacher-served")
    for name in ("nats_per_token", "bits_per_byte", "token_accuracy", "confidence", "eos_nats"):
        # llama.cpp keeps keys and values in float16; measured: 6e-4
        assert served_point.evaluation.value(name) == pytest.approx(here_point.evaluation.value(name), abs=5e-3)
    assert arms["served"].against("likelihood") is not None


def test_a_study_asks_once(beside: tuple[StudyResults, Path, StudyRecipe]) -> None:
    _, output, recipe = beside
    journals = {path.parent.name: path.stat() for path in (output / "served").glob(f"*/{ANSWERS}")}
    assert len(journals) == 2 and "teacher-teacher-served" in journals  # the training rows, and the held-out rows
    assert not list((output / "runs").rglob(ANSWERS))
    Study(recipe, reproduce="x").run()
    again = {path.parent.name: path.stat() for path in (output / "served").glob(f"*/{ANSWERS}")}
    assert {name: (one.st_size, one.st_mtime_ns) for name, one in again.items()} == {
        name: (one.st_size, one.st_mtime_ns) for name, one in journals.items()
    }


def test_a_study_can_have_a_served_teacher_alone_or_a_cache_of_it(
    tiny_world: dict[str, Any], server: dict[str, Any], tmp_path: Path
) -> None:
    arms = ["sft", {"name": "top-k", "method": "logits", "terms": TOP_K}]
    values = tiny_world | {"arms": arms, "seeds": [0]}
    alone = Study(study(values | {"teacher": server}, tmp_path / "alone"), reproduce="x").run()
    run = {name: value for name, value in tiny_world.items() if name != "seeds"} | {"teacher": server, "terms": TOP_K}
    file = tmp_path / "run.yaml"
    with file.open("w") as stream:
        YAML(typ="safe", pure=True).dump(run | {"method": "logits", "output": str(tmp_path / "run")}, stream)
    code, _, err = call("cache", "build", str(file))
    assert code == 0, err
    teacher = {"cache": str(tmp_path / "run" / "cache")}
    cached = Study(study(values | {"teacher": teacher}, tmp_path / "cached"), reproduce="x").run()
    for one, other in zip(alone.arms, cached.arms, strict=True):
        assert one.evaluations[0].nats_per_token == pytest.approx(other.evaluations[0].nats_per_token, abs=1e-6)
    nats = [point(results, "teacher-served").evaluation.nats_per_token for results in (alone, cached)]
    assert nats[0] == pytest.approx(nats[1], abs=1e-3)  # a cache has float16


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        ("logits", "whole distribution"),
        ("hidden_states", "activations"),
        ("attention", "activations"),
        ("vocabulary_projection", "whole distribution"),
        ("merged_spans", "whole distribution"),
        ({"name": "wide", "method": "logits", "terms": [{"kind": "top_k_divergence", "k": 17}]}, "server.k is 16"),
    ],
)
def test_an_arm_that_reads_more_is_refused_before_anything_is_asked(
    tiny_world: dict[str, Any], tmp_path: Path, arm: Any, reason: str
) -> None:
    teacher = {"path": tiny_world["teacher"]["path"], "server": NOWHERE}
    recipe = study(tiny_world, tmp_path / "study", teacher=teacher, arms=["sft", arm])
    with pytest.raises(TeacherError, match="does not give the signal") as caught:
        Study(recipe, reproduce="x").run()
    assert reason in str(caught.value) and "top_k_divergence" in str(caught.value)
    assert not (tmp_path / "study").exists()
    method = {"method": arm} if isinstance(arm, str) else {"method": "logits", "terms": arm["terms"]}
    values = {name: value for name, value in tiny_world.items() if name != "seeds"}
    with pytest.raises(TeacherError, match="does not give the signal"):
        execute(RunRecipe(**values | method | {"teacher": teacher}, output=str(tmp_path / "run")))


def test_a_server_is_not_asked_in_every_run(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    teacher = {"path": tiny_world["teacher"]["path"], "server": NOWHERE}
    with pytest.raises(ValidationError, match="in every run"):
        study(tiny_world, tmp_path, teacher=teacher, teacher_signals="online")


def test_the_other_commands_read_a_recipe_with_a_server(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    teacher = {"path": tiny_world["teacher"]["path"], "server": NOWHERE}
    arms = ["sft", {"name": "top-k", "method": "logits", "terms": TOP_K}]
    of_study = tiny_world | {"teacher": teacher, "arms": arms}
    of_run = {name: value for name, value in of_study.items() if name not in ("seeds", "arms")}
    recipes = {"study": of_study, "run": of_run | {"method": "logits", "terms": TOP_K}}
    for name, values in recipes.items():
        file = tmp_path / f"{name}.yaml"
        with file.open("w") as stream:
            YAML(typ="safe", pure=True).dump(values | {"output": str(tmp_path / name)}, stream)
        code, out, err = call("doctor", "selftest", str(file))
        assert code == 0, err
        assert "behind a server" in out
        code, out, err = call("estimate", str(file))
        assert code == 0, err
        assert "asked of a server" in out
        assert call("data", str(file))[0] == 0
        assert not (tmp_path / name).exists()
