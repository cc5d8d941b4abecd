"""Studies with a teacher behind llama.cpp's server give the figures of the same weights read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distillab.config import StudyRecipe
from distillab.config.run import RunRecipe
from distillab.errors import TeacherError
from distillab.records import Baseline, StudyResults
from distillab.report.build import write_report
from distillab.runs.run import execute
from distillab.study.study import Study
from distillab.teachers.served.journal import ANSWERS
from tests.cli.conftest import call, dumped
from tests.served.conftest import llama_cpp
from tests.served.faulty_server import FaultyServer, serving
from tests.tiny_world import VOCABULARY

TOP_K = [{"kind": "top_k_divergence", "k": 16}]
# nobody listens there
NOWHERE = {"url": "http://127.0.0.1:9", "dialect": "llama_cpp"}


@pytest.fixture(scope="module")
def server(tiny_world: dict[str, Any], tiny_server: str) -> dict[str, Any]:
    """The teacher of the tiny world behind a server, as a recipe names it."""
    return {**tiny_world["teacher"], "server": {"url": tiny_server, "dialect": "llama_cpp"}}


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
        {"name": "answers", "method": "seqkd", "teacher": server},
    ]
    recipe = study(tiny_world, output, arms=arms)
    return Study(recipe, reproduce="x").run(), output, recipe


def test_a_served_arm_gives_the_figures_of_the_weights(beside: tuple[StudyResults, Path, StudyRecipe]) -> None:
    results, output, _ = beside
    write_report(results, output)
    arms = {arm.name: arm for arm in results.arms}
    for here, served in zip(arms["here"].evaluations, arms["served"].evaluations, strict=True):
        # the largest difference that was measured is 1.1e-4
        assert served.nats_per_token == pytest.approx(here.nats_per_token, abs=1e-3)
        kl = served.metric("kl_from_teacher")
        assert here.value("kl_from_teacher") is not None
        assert kl is not None and kl.missing is not None and "behind a server" in kl.missing
        own = served.metric("own_kl_from_teacher")
        assert own is not None and own.missing == kl.missing
    here_point, served_point = point(results, "teacher"), point(results, "teacher-served")
    for name in ("nats_per_token", "bits_per_byte", "token_accuracy", "confidence", "eos_nats", "rouge_l"):
        # llama.cpp keeps keys and values in float16; the largest difference that was measured is 5e-6
        assert served_point.evaluation.value(name) == pytest.approx(here_point.evaluation.value(name), abs=1e-3)
    assert arms["served"].against("likelihood") is not None
    costs = [cost for arm in results.arms if (cost := arm.teacher_cost) is not None and cost.served is not None]
    assert len(costs) == 2 and all(cost.served and cost.served.requests >= 60 for cost in costs)
    assert served_point.served is not None and served_point.served.requests >= 26 and here_point.served is None
    assert "requests to its server" in (output / "report.md").read_text()


def test_a_study_asks_once(beside: tuple[StudyResults, Path, StudyRecipe]) -> None:
    _, output, recipe = beside
    first = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in output.rglob(ANSWERS)}
    # the training rows, the held-out rows and the answers to their prompts; the answers to the training prompts
    assert sorted(path.relative_to(output).parts[0] for path in first) == ["answers", "served", "served", "served"]
    (output / "results.json").unlink()
    Study(recipe, reproduce="x").run()
    assert {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in output.rglob(ANSWERS)} == first


def test_a_study_can_have_a_served_teacher_alone_or_a_cache_of_it(
    tiny_world: dict[str, Any], server: dict[str, Any], tmp_path: Path
) -> None:
    arms = ["sft", {"name": "top-k", "method": "logits", "terms": TOP_K}]
    values = tiny_world | {"arms": arms, "seeds": [0]}
    alone = Study(study(values | {"teacher": server}, tmp_path / "alone"), reproduce="x").run()
    run = {name: value for name, value in tiny_world.items() if name != "seeds"} | {"teacher": server, "terms": TOP_K}
    file = dumped(run | {"method": "logits", "output": str(tmp_path / "run")}, tmp_path / "run.yaml")
    code, _, err = call("cache", "build", file)
    assert code == 0, err
    teacher = {"cache": str(tmp_path / "run" / "cache")}
    cached = Study(study(values | {"teacher": teacher}, tmp_path / "cached"), reproduce="x").run()
    for one, other in zip(alone.arms, cached.arms, strict=True):
        assert one.evaluations[0].nats_per_token == pytest.approx(other.evaluations[0].nats_per_token, abs=1e-6)
    nats = [point(results, "teacher-served").evaluation.nats_per_token for results in (alone, cached)]
    assert nats[0] == pytest.approx(nats[1], abs=1e-3)  # a cache has float16


@pytest.mark.slow
def test_with_all_entries_a_server_gives_whole_distributions_across_tokenizers_too(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path
) -> None:
    with llama_cpp(Path(stranger), tmp_path) as url:
        served = {"path": stranger, "server": {"url": url, "dialect": "llama_cpp", "k": VOCABULARY}}
        methods = ("vocabulary_projection", "merged_spans", "span_likelihood")
        arms = [{"name": f"{method}-{n}", "method": method, "teacher": teacher}
                for method in methods for n, teacher in enumerate(({"path": stranger}, served))]  # fmt: skip
        data = {**tiny_world["data"], "train": {**tiny_world["data"]["train"], "limit": 8}}
        few = {"data": data, "evaluation": {**tiny_world["evaluation"], "rows": 4, "generate_rows": 0}}
        recipe = study(tiny_world, tmp_path / "study", arms=["sft", *arms], seeds=[0], **few)
        results = Study(recipe, reproduce="x").run()
    arms_by_name = {arm.name: arm for arm in results.arms}
    for method in methods:
        here, there = (arms_by_name[f"{method}-{n}"].evaluations[0].nats_per_token for n in (0, 1))
        assert there == pytest.approx(here, abs=1e-3), method


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


def test_a_teacher_that_gives_text_alone_is_judged_by_its_answers(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    with serving(FaultyServer(paths=("/v1/chat/completions",))) as faulty:
        teacher = {"server": {"url": faulty.url, "dialect": "openai_chat", "model": "m"}}
        values = tiny_world | {"teacher": teacher, "arms": ["sft", "seqkd"], "seeds": [0]}
        results = Study(study(values, tmp_path / "study"), reproduce="x").run()
    (teacher_point,) = (one for one in results.baselines if one.role == "teacher")
    nats, rouge = (teacher_point.evaluation.metric(name) for name in ("nats_per_token", "rouge_l"))
    assert nats is not None and nats.missing is not None and "text alone" in nats.missing
    assert rouge is not None and rouge.value is not None
    write_report(results, tmp_path)
    assert "text alone" in (tmp_path / "report.md").read_text()


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
        file = dumped(values | {"output": str(tmp_path / name)}, tmp_path / f"{name}.yaml")
        code, out, err = call("doctor", "preflight", file)
        assert code == 0, err
        assert "behind a server" in out
        code, out, err = call("estimate", file, "teacher.server.prices={prompt: 2, completion: 8}")
        assert code == 0, err
        assert "asked of a server" in out and "by teacher.server.prices" in out
        assert call("data", file)[0] == 0
        assert not (tmp_path / name).exists()
