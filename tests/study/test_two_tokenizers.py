"""A study whose teacher has other tokens: runs, caches and records of the methods that read two tokenisations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.alignment.transport import TransportCounts
from distillab.cache.reader import CacheReader
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.records import RunRecord, StudyResults, read_record
from distillab.runs.run import execute
from distillab.study.cache_build import cache_builds, run_build
from distillab.study.study import Study

TERMS = {
    "projection": [{"kind": "vocabulary_projection"}],
    "transport": [{"kind": "measured_transport"}],
    "transport-top-k": [{"kind": "top_k_transport", "k": 8}],
    "likelihood": [{"kind": "cross_entropy"}, {"kind": "span_likelihood"}],
    "merged": [{"kind": "merged_spans"}],
    "sorted": [{"kind": "cross_entropy"}, {"kind": "sorted_probabilities"}],
    "contrast": [{"kind": "cross_entropy"}, {"kind": "contrastive"}],
    "states": [{"kind": "cross_entropy"}, {"kind": "span_hidden_states"}],
}
ARMS: list[Any] = [
    "sft",
    *({"name": name, "method": "sft", "terms": terms} for name, terms in TERMS.items()),
    {"name": "on-answers", "method": "seqkd", "terms": TERMS["projection"]},
]


def _study(values: dict[str, Any], stranger: str, output: Path, **changes: Any) -> StudyRecipe:
    evaluation = {**values["evaluation"], "generate_rows": 0}
    made = {**values, "evaluation": evaluation, "teacher": {"path": stranger}, "arms": ARMS, "seeds": [0], **changes}
    return StudyRecipe(**made, output=str(output))


@pytest.fixture(scope="module")
def cached(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study with caches."""
    output = tmp_path_factory.mktemp("across") / "study"
    stranger = str(Path(tiny_world["teacher"]["path"]).with_name("stranger"))
    Study(_study(tiny_world, stranger, output), reproduce="x").run()
    return output


def test_the_figures_are_those_of_asking_the_teacher(
    tiny_world: dict[str, Any], stranger: str, cached: Path, tmp_path: Path
) -> None:
    recipe = _study(tiny_world, stranger, tmp_path / "online", teacher_signals="online")
    online = Study(recipe, reproduce="x").run()
    results = read_record(StudyResults, cached / "results.json")
    assert online.caches == () and results.caches
    for one, other in zip(results.arms, online.arms, strict=True):
        here, there = one.evaluations[0], other.evaluations[0]
        assert here.nats_per_token == pytest.approx(there.nats_per_token, abs=1e-5), one.name


def test_every_term_changes_the_student(cached: Path) -> None:
    results = read_record(StudyResults, cached / "results.json")
    nats = {arm.name: arm.evaluations[0].nats_per_token for arm in results.arms}
    assert len({round(value, 7) for value in nats.values()}) == len(ARMS)


def test_the_record_says_how_the_tokenisations_meet(cached: Path) -> None:
    record = _record(cached, "projection")
    assert record.spans is not None and record.shown_failure is None
    assert record.spans.rows == record.train_counts.kept
    assert 0 < record.spans.one_to_one <= record.spans.spans <= record.spans.student_in_spans
    assert record.spans.student_in_spans <= record.spans.student_tokens == record.train_counts.supervised_tokens
    assert record.spans.teacher_tokens != record.spans.student_tokens
    assert _record(cached, "sft").spans is None


def test_the_counts_of_the_rows_are_kept_and_are_the_same_for_all_runs_on_them(cached: Path) -> None:
    one, other = (_record(cached, name) for name in ("transport", "transport-top-k"))
    assert one.transport is not None and one.transport == other.transport
    assert one.transport.tokens > one.train_counts.supervised_tokens  # prompts are counted, too
    kept = TransportCounts.load(cached / "runs" / "transport" / "seed0" / "transport.safetensors")
    assert kept.fingerprint == one.transport.fingerprint and "transport.safetensors" in one.files
    assert _record(cached, "projection").transport is None


def test_the_teacher_is_asked_about_its_own_tokens_once(cached: Path) -> None:
    uses = {arm["name"]: _record(cached, arm["name"]).caches for arm in ARMS[1:]}
    paths = {name: {use.path for use in found} for name, found in uses.items()}
    assert len({path for name in TERMS for path in paths[name]}) == 1  # one cache for all that read the data's rows
    (projection,) = uses["projection"]
    spans, contract = _record(cached, "projection").spans, _record(cached, "projection").contract
    assert spans is not None and projection.scored_tokens == spans.teacher_tokens
    assert contract is not None and CacheReader(projection.path).identity.tokenizer == contract.teacher.fingerprint
    assert _record(cached, "projection").cost.teacher_tokens == 0


def test_arms_are_told_apart_by_their_teachers_tokens(cached: Path) -> None:
    results = read_record(StudyResults, cached / "results.json")
    assert {arm.name: arm.across_tokenizers for arm in results.arms} == {
        "sft": False,
        **dict.fromkeys(TERMS, True),
        "on-answers": True,
    }
    assert "Across tokenizers" in results.verdict or "across tokenizers" in results.verdict
    assert len(results.spans) == 2  # of the data's own rows, and of those with the teacher's answers


def test_teacher_tokens_are_counted_in_its_own(tiny_world: dict[str, Any], stranger: str, tmp_path: Path) -> None:
    record = execute(_run(tiny_world, stranger, tmp_path / "run"))
    assert record.teacher_signals == "online"
    assert 0 < record.cost.teacher_tokens != record.cost.student_tokens


def test_a_cache_that_was_built_before_serves_the_run(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path
) -> None:
    online = _run(tiny_world, stranger, tmp_path / "online", cache={"folder": str(tmp_path / "cache")})
    for item in cache_builds(online):
        run_build(item, worker=0, workers=1)
    alone = _run(tiny_world, stranger, tmp_path / "offline", teacher={"cache": str(tmp_path / "cache")})
    here, there = execute(alone), execute(online.model_copy(update={"cache": None}))
    assert here.teacher_signals == "cached" and there.teacher_signals == "online"
    assert here.evaluation.nats_per_token == pytest.approx(there.evaluation.nats_per_token, abs=1e-5)


@pytest.mark.slow
def test_with_equal_tokens_both_kinds_of_methods_share_the_yardstick(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    own = {"name": "projection", "method": "sft", "terms": TERMS["projection"]}
    carried = {"name": "transport", "method": "sft", "terms": TERMS["transport"]}
    by_id = {"name": "by-id", "method": "sft", "terms": [{"kind": "token_divergence"}]}
    evaluation = {**tiny_world["evaluation"], "generate_rows": 0}
    changes = {"evaluation": evaluation, "arms": ["sft", own, carried, by_id], "seeds": [0], "workers": 2}
    results = Study(StudyRecipe(**{**tiny_world, **changes}, output=str(tmp_path / "study")), reproduce="x").run()
    found = {arm.name: arm.evaluations[0] for arm in results.arms}
    # with one tokenisation the projection is the identity, so both students are the same
    assert found["projection"].nats_per_token == pytest.approx(found["by-id"].nats_per_token, abs=1e-5)
    assert found["transport"].nats_per_token == pytest.approx(found["by-id"].nats_per_token, abs=1e-6)
    assert found["projection"].value("kl_from_teacher") == pytest.approx(
        found["by-id"].value("kl_from_teacher"), abs=1e-5
    )
    assert sum(use.source == "the held-out rows" for use in results.caches) <= 1
    assert len({use.path for use in results.caches}) == 3


def _run(values: dict[str, Any], stranger: str, output: Path, **changes: Any) -> RunRecipe:
    base = {key: value for key, value in values.items() if key != "seeds"}
    evaluation = {**values["evaluation"], "generate_rows": 0}
    made = {**base, "evaluation": evaluation, "teacher": {"path": stranger}, "terms": TERMS["projection"], **changes}
    return RunRecipe(**made, method="sft", output=str(output))


def _record(study: Path, arm: str) -> RunRecord:
    return read_record(RunRecord, study / "runs" / arm / "seed0" / "run.json")
