"""Runs and studies with several teachers: by a column of the rows, and as a mixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

import distillab as dl
from distillab.cache.folder import read_identity
from distillab.cache.sources import open_source
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError, DataError, TokenizerMismatch
from distillab.files import read_json_lines
from distillab.preflight.devices import DEVICES
from distillab.preflight.estimate import estimate
from distillab.preflight.recipe import audit_recipe
from distillab.records import RunRecord, read_record
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.runs.several import open_teacher
from distillab.runs.signals import arms_kinds
from distillab.study.cache_build import cache_builds, run_build
from distillab.study.study import Study
from distillab.teachers.signals import Distribution, SignalRequest
from tests.tiny_world import save_tiny

NAMES = ("math", "chat")


def name_of(number: int) -> str:
    return NAMES[number % 3 != 0]


def with_names(path: str, out: Path) -> str:
    rows = read_json_lines(Path(path))
    lines = [json.dumps({**row, "by": name_of(number)}) + "\n" for number, row in enumerate(rows)]
    out.write_text("".join(lines), encoding="utf-8")
    return str(out)


@pytest.fixture
def values(tiny_world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A run with two teachers, each for the rows that name it."""
    first = tiny_world["teacher"]["path"]
    second = save_tiny(tmp_path / "second", 7, Path(first), layers=2)
    data = tiny_world["data"]
    return {
        **{name: dict(tiny_world[name]) for name in ("student", "training", "teacher_answers")},
        "teachers": {"math": {"path": first}, "chat": {"path": str(second)}},
        "data": {
            **data,
            "train": {"path": with_names(data["train"]["path"], tmp_path / "train.jsonl")},
            "held_out": {"path": with_names(data["held_out"]["path"], tmp_path / "held.jsonl")},
            "teacher_column": "by",
        },
        "evaluation": {**tiny_world["evaluation"], "rows": 12, "generate_rows": 6},
        "output": str(tmp_path / "run"),
    }


def mixture(values: dict[str, Any], first: float = 0.25) -> dict[str, Any]:
    weights = dict(zip(NAMES, (first, 1 - first), strict=True))
    teachers = {name: {**one, "weight": weights[name]} for name, one in values["teachers"].items()}
    return {**values, "teachers": teachers, "data": {**values["data"], "teacher_column": None}}


def kl_by_hand(values: dict[str, Any], record: RunRecord, weights: dict[str, float] | None) -> float:
    """Mean KL from each row's teacher, or from the mixture, to the saved student, in float64."""
    from transformers import AutoModelForCausalLM

    inputs = load_inputs(RunRecipe(**values))
    models = {name: AutoModelForCausalLM.from_pretrained(one["path"]) for name, one in values["teachers"].items()}
    student = AutoModelForCausalLM.from_pretrained(f"{record.config['output']}/student")
    total, count = 0.0, 0
    for number, row in enumerate(inputs.eval_rows):
        ids = torch.tensor(row.input_ids[None]).long()
        at = torch.tensor(row.answer_mask)[1:]
        with torch.no_grad():
            prob = {name: model(ids).logits[0, :-1][at].double().softmax(-1) for name, model in models.items()}
            mine = student(ids).logits[0, :-1][at].double().log_softmax(-1)
        wanted = sum(weights[n] * prob[n] for n in NAMES) if weights else prob[name_of(number)]
        assert isinstance(wanted, torch.Tensor)
        total += float((wanted * (wanted.log() - mine)).sum())
        count += int(at.sum())
    return total / count


def test_each_row_learns_from_and_is_judged_by_its_own_teacher(values: dict[str, Any]) -> None:
    record = execute(RunRecipe(**values, method="logits"))
    assert record.evaluation.value("kl_from_teacher") == pytest.approx(kl_by_hand(values, record, None), rel=1e-4)
    assert record.evaluation.value("own_kl_from_teacher") is not None
    assert record.teacher is not None and record.teacher.name == "math: teacher, chat: second"
    assert {"teacher_math", "teacher_chat", "teacher_columns"} <= record.fingerprints.keys()
    assert record.cost.teacher_tokens == record.cost.student_tokens
    again = execute(RunRecipe(**values, method="logits"))
    assert again == record


def test_a_mixture_is_trained_on_and_judged_by_as_a_whole(values: dict[str, Any]) -> None:
    recipe = mixture(values)
    record = execute(RunRecipe(**recipe, method="logits"))
    by_hand = kl_by_hand(recipe, record, {"math": 0.25, "chat": 0.75})
    assert record.evaluation.value("kl_from_teacher") == pytest.approx(by_hand, rel=1e-4)
    assert record.teacher is not None and record.teacher.name == "0.25 teacher + 0.75 second"
    assert record.cost.teacher_tokens == 2 * record.cost.student_tokens
    with pytest.raises(ConfigError, match="another"):
        execute(RunRecipe(**mixture(values, 0.5), method="logits"))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_study_caches_each_teacher_and_lists_it(values: dict[str, Any], tmp_path: Path, mixed: bool) -> None:
    values = mixture(values) if mixed else values
    arms: list[Any] = [
        "sft",
        "logits",
        {"name": "top_k", "method": "logits", "terms": [{"kind": "top_k_divergence", "k": 4}]},
    ]
    arms += [] if mixed else ["seqkd"]
    arms.append({"name": "math-alone", "method": "logits", "teacher": {"path": values["teachers"]["math"]["path"]}})
    live = execute(RunRecipe(**values, method="logits"))
    study = {**values, "arms": arms, "seeds": [0], "output": str(tmp_path / "study")}
    recipe = StudyRecipe(**study)
    assert sorted({build.inputs.require_teacher().spec.name for build in cache_builds(recipe)}) == ["second", "teacher"]
    results = Study(recipe, reproduce="").run()
    found = {arm.name: arm for arm in results.arms}
    cached = found["logits"].evaluations[0]
    for name in ("nats_per_token", "kl_from_teacher", "own_kl_from_teacher"):
        assert cached.value(name) == pytest.approx(live.evaluation.value(name), abs=1e-4)
    assert [point.name for point in results.baselines] == ["undistilled", "teacher", "second"]
    assert found["logits"].costs[0].teacher_tokens == 0
    undefined = {one.family: one.undefined for one in found["logits"].comparisons}
    assert undefined["likelihood"] == "the arm has several teachers" != undefined["fidelity"]
    assert found["math-alone"].evaluations[0].nats_per_token != cached.nats_per_token
    names = {use.teacher for use in results.caches}
    assert names == {"teacher", "second"}
    rows = len(read_json_lines(Path(values["data"]["train"]["path"])))
    of_logits = read_record(RunRecord, tmp_path / "study" / "runs" / "logits" / "seed0" / "run.json")
    assert of_logits.teacher_signals == "cached"
    trained = [use.rows for use in of_logits.caches if use.source == "the training rows"]
    assert sum(trained) == (2 * rows if mixed else rows) and len(trained) == 2
    before = (tmp_path / "study" / "results.json").read_bytes()
    assert Study(recipe, reproduce="").run() == results
    assert (tmp_path / "study" / "results.json").read_bytes() == before


def test_of_a_mixture_whole_distributions_are_stored_whatever_the_term(values: dict[str, Any]) -> None:
    top_k = {"method": "logits", "terms": [{"kind": "top_k_divergence", "k": 4}]}
    mixed, routed = (load_inputs(RunRecipe(**one, **top_k)) for one in (mixture(values), values))
    assert [kind.kind for kind in arms_kinds([mixed.parts["math"]])] == ["full"]
    assert [kind.kind for kind in arms_kinds([routed.parts["math"]])] == ["top_k"]


def test_each_teacher_writes_the_answers_to_its_own_rows(values: dict[str, Any]) -> None:
    recipe = RunRecipe(**values, method="seqkd")
    record = execute(recipe)
    inputs = load_inputs(recipe)
    folder = Path(values["output"]) / "answers"
    split, counts = open_teacher(inputs).training_rows(folder)
    assert counts is not None and counts == record.answers and counts.prompts == 60
    assert record.cost.answers_s is not None
    for name, part in inputs.parts.items():
        made_by = read_identity(open_source(str(folder / name))).teacher
        assert made_by.weights_sha256 == part.require_teacher().spec.weights_sha256
        assert [name_of(inputs.splits.train.index(example)) for example in part.train.examples] == [name] * len(
            part.train
        )
    owners = [name_of(n) for n, example in enumerate(inputs.train.examples)]
    by_key = {example.key: owner for example, owner in zip(inputs.train.examples, owners, strict=True)}
    assert [by_key[example.key.rpartition("/")[0]] for example in split.examples] == [
        example.beside["by"] for example in split.examples
    ]
    places = [example.key.rpartition("/")[0] for example in split.examples]
    assert places == sorted(places, key=[example.key for example in inputs.train.examples].index)


def test_layers_of_one_size_are_compared_and_of_two_sizes_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers of the teachers have different sizes"):
        execute(RunRecipe(**values, method="hidden_states"))
    first = values["teachers"]["math"]["path"]
    values["teachers"]["chat"] = {"path": str(save_tiny(tmp_path / "third", 8, Path(first)))}
    record = execute(RunRecipe(**{**values, "output": str(tmp_path / "inside")}, method="white_box"))
    assert record.evaluation.nats_per_token > 0


def test_teachers_with_prompts_of_their_own_are_composed(values: dict[str, Any]) -> None:
    for part in ("train", "held_out"):
        path = Path(values["data"][part]["path"])
        rows = read_json_lines(path)
        for row in rows:  # only training rows of the teacher that reads it need a hint
            row["hint"] = f"Think. {row['prompt']}" if row["by"] == "chat" or part == "held_out" else None
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values["teachers"]["chat"]["prompt_column"] = "hint"
    inputs = load_inputs(RunRecipe(**values, method="logits"))
    source = open_teacher(inputs).for_terms(inputs.train)
    assert source is not None
    batch = inputs.student.collator()([_row(inputs, n) for n in (0, 1)])
    request = SignalRequest(scores=frozenset({Distribution(400)}))
    scores = source.signal(batch, request).scores
    assert scores is not None
    count = int(batch["answer_mask"].sum())
    assert scores.chunk(slice(0, count), torch.device("cpu")).logp(400, 1.0).shape == (count, 400)
    assert source.tokens(batch) > int(batch["attention_mask"].sum())  # type: ignore[attr-defined]
    study = {**values, "arms": ["sft", "logits"], "seeds": [0]}
    results = Study(StudyRecipe(**study), reproduce="").run()
    assert [point.name for point in results.baselines] == ["undistilled", "teacher", "second-hint"]
    assert all(arm.evaluations[0].value("own_kl_from_teacher") is not None for arm in results.arms)
    rows[0]["hint"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match="1 of 30 rows have no prompt for the teacher"):
        load_inputs(RunRecipe(**values, method="logits"))


def _row(inputs: Any, number: int) -> Any:
    from distillab.data.collation import IndexedRow

    return IndexedRow(number, inputs.train.rows[number])


def test_rows_that_name_no_teacher_are_counted(values: dict[str, Any]) -> None:
    path = Path(values["data"]["train"]["path"])
    rows = read_json_lines(path)
    rows[0]["by"], rows[4]["by"], rows[5]["by"] = "maths", None, "maths"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match='3 of 60 rows name no teacher in the column "by"') as error:
        load_inputs(RunRecipe(**values, method="logits"))
    assert "'maths': 2 rows" in str(error.value) and "no name: 1 row" in str(error.value)
    assert "write one of math, chat" in str(error.value)


def test_a_teacher_without_rows_is_refused(values: dict[str, Any]) -> None:
    values["teachers"]["code"] = values["teachers"]["math"]
    with pytest.raises(DataError, match="No training row names the teacher code"):
        load_inputs(RunRecipe(**values, method="logits"))


def test_every_teacher_is_judged_against_the_student(values: dict[str, Any], stranger: str) -> None:
    values["teachers"]["chat"] = {"path": stranger}
    inputs = load_inputs(RunRecipe(**values, method="logits"))
    with pytest.raises(TokenizerMismatch) as error:
        inputs.admit()
    assert "teachers: chat" in str(error.value)
    seqkd = load_inputs(RunRecipe(**values, method="seqkd"))
    seqkd.admit()
    assert seqkd.shared_width == 0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"teacher": {"path": "x"}}, "teacher and teachers: give one"),
        ({"teachers": {"a": {"path": "x"}}}, "names several"),
        ({"teachers": {"a": {"path": "x", "weight": 0.5}, "b": {"path": "y"}}}, "the weight of a has no effect"),
        ({"teachers": None, "method": "sft"}, "data.teacher_column: by has no effect"),
        ({"method": "span_likelihood"}, "aligns the tokens of one teacher"),
        ({"terms": [{"kind": "cross_entropy"}, {"kind": "attention_maps"}]}, "attention_maps reads one teacher"),
        ({"teacher_correction": {"steps": 1}}, "teacher_correction"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        RunRecipe(**{**values, "method": "logits", **change})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"method": "hidden_states"}, "hidden_states reads inside of a teacher"),
        ({"method": "attention"}, "attention_relations reads inside of a teacher"),
        ({"method": "seqkd"}, "a mixture of teachers writes no answers"),
        ({"teachers": {"a": {"path": "x", "weight": 0.5}, "b": {"path": "y"}}}, "teachers without weight: b"),
        ({"teachers": {"a": {"path": "x", "weight": 0.5}, "b": {"path": "y", "weight": 0.4}}}, "add up to 0.9"),
    ],
)
def test_what_a_mixture_cannot_do_is_refused(values: dict[str, Any], change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        RunRecipe(**{**mixture(values), "method": "logits", **change})


@pytest.mark.parametrize("mixed", [False, True])
def test_the_doctor_checks_every_teacher(values: dict[str, Any], tmp_path: Path, mixed: bool) -> None:
    arms = ["sft", "logits"] if mixed else ["sft", "logits", "seqkd"]
    study = {**(mixture(values) if mixed else values), "arms": arms, "seeds": [0]}
    found = audit_recipe(StudyRecipe(**study))
    scopes = [check.scope for check in found.checks]
    for name in ("teacher", "second"):
        assert any(scope.startswith(f"teacher {name}: ") for scope in scopes)
    assert not [one for check in found.checks for one in check.findings if one.severity == "error"]
    skipped = [str(check.skipped) for check in found.checks if check.skipped]
    assert any("several teachers" in why for why in skipped)
    device = DEVICES["h200"]
    whole = estimate(StudyRecipe(**{**study, "teacher_signals": "online"}), device).runs
    by_teacher, tokens = whole[1].teacher_tokens, whole[1].student_tokens
    assert by_teacher == pytest.approx((2 if mixed else 1) * tokens)
    assert whole[1].memory.teacher > 0
    assert estimate(StudyRecipe(**study), device).shared.keys() >= {"signals of teacher", "signals of second"}


def test_python_takes_several_teachers_in_memory_and_by_path(values: dict[str, Any], tmp_path: Path) -> None:
    paths = {name: one["path"] for name, one in values["teachers"].items()}
    settings = {f"{part}.{key}": value for part in ("training", "evaluation") for key, value in values[part].items()}
    settings |= {"data.teacher_column": "by", "data.max_tokens": 96}
    common = {
        "student": values["student"]["path"],
        "train": values["data"]["train"]["path"],
        "held_out": values["data"]["held_out"]["path"],
        "settings": settings,
    }
    by_path = dl.distil(teacher=paths, output=tmp_path / "paths", **common)
    loaded = (AutoModelForCausalLM.from_pretrained(paths["math"]), AutoTokenizer.from_pretrained(paths["math"]))
    by_object = dl.distil(teacher={**paths, "math": loaded}, output=tmp_path / "objects", **common)
    recipe = execute(RunRecipe(**values, method="logits"))
    assert by_path.evaluation == by_object.evaluation == recipe.evaluation
    study = dl.Study(teacher=paths, output=tmp_path / "study", arms=["sft", "logits"], seeds=[0], **common)
    assert study.recipe.teachers is not None and list(study.recipe.teachers) == ["math", "chat"]


def test_a_run_reads_a_cache_of_each_teacher_and_needs_no_weights(values: dict[str, Any], tmp_path: Path) -> None:
    live = execute(RunRecipe(**values, method="logits"))
    data = {**values["data"], "teacher_column": None}
    for name, one in values["teachers"].items():  # a cache of all rows holds those of the teacher
        alone = {**values, "teacher": one, "teachers": None, "data": data, "method": "logits"}
        alone["cache"] = {"folder": str(tmp_path / name), "kinds": [{"kind": "full"}]}
        for build in cache_builds(RunRecipe(**alone)):
            run_build(build, worker=0, workers=1)
    stored = {name: {"cache": str(tmp_path / name)} for name in values["teachers"]}
    recipe = RunRecipe(**{**values, "teachers": stored, "output": str(tmp_path / "cached")}, method="logits")
    cached = execute(recipe)
    assert cached.teacher_signals == "cached" and cached.cost.teacher_tokens == 0
    assert cached.evaluation.nats_per_token == pytest.approx(live.evaluation.nats_per_token, abs=1e-4)
    expected = live.evaluation.value("kl_from_teacher")
    assert cached.evaluation.value("kl_from_teacher") == pytest.approx(expected, abs=1e-4)
    assert {use.teacher for use in cached.caches} == {"teacher", "second"}
    found = audit_recipe(recipe)
    assert not [one for check in found.checks for one in check.findings if one.severity == "error"]
