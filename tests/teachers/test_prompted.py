"""A teacher with a prompt of its own: its log-probabilities, runs from weights and from a cache, and the refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

import distillab as dl
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import DataError, TeacherError
from distillab.files import read_json_lines
from distillab.models.activations import ActivationSpec
from distillab.preflight.recipe import audit_recipe
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.runs.teacher import RunTeacher
from distillab.runs.training_data import training_data
from distillab.study.study import Study
from distillab.teachers.signals import Distribution, SignalRequest

WIDTH = 400
SCORES = SignalRequest(scores=frozenset({Distribution(WIDTH)}))
INSIDE = SignalRequest(activations=ActivationSpec(hidden=frozenset({1})), hidden_at=frozenset({"answer"}))


def hint(row: dict[str, Any]) -> str:
    return f"The answer is {row['answer']}. {row['prompt']}"


def hinted(path: str, out: Path) -> str:
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    out.write_text("".join(json.dumps({**row, "hint": hint(row)}) + "\n" for row in rows), encoding="utf-8")
    return str(out)


@pytest.fixture
def values(tiny_world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A small run in which the teacher is the student itself, with a hint."""
    data = {
        **tiny_world["data"],
        "train": {"path": hinted(tiny_world["data"]["train"]["path"], tmp_path / "train.jsonl")},
        "held_out": {"path": hinted(tiny_world["data"]["held_out"]["path"], tmp_path / "held.jsonl")},
    }
    return {
        **{name: dict(tiny_world[name]) for name in ("student", "training", "teacher_answers")},
        "teacher": {"path": tiny_world["student"]["path"], "prompt_column": "hint"},
        "evaluation": {**tiny_world["evaluation"], "rows": 12, "generate_rows": 16},
        "data": data,
        "method": "logits",
        "output": str(tmp_path / "run"),
    }


def expected(values: dict[str, Any], row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's log-probabilities, and the states of its first block, at each token of an answer, by hand."""
    path = values["teacher"]["path"]
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    prompt = tokenizer(f"{hint(row)}\n")["input_ids"]
    answer = tokenizer(f"{row['prompt']}\n{row['answer']}")["input_ids"]
    answer = [*answer[len(tokenizer(f"{row['prompt']}\n")["input_ids"]) :], tokenizer.eos_token_id]
    with torch.no_grad():
        out = model(torch.tensor([prompt + answer]), output_hidden_states=True)
    places = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return out.logits[0, places].double().log_softmax(-1), out.hidden_states[1][0, places]


@pytest.mark.parametrize("packing", [False, True])
def test_the_signal_is_that_of_the_teachers_own_prompt(values: dict[str, Any], packing: bool) -> None:
    values["training"]["packing"] = packing
    inputs = load_inputs(RunRecipe(**values))
    source = RunTeacher(inputs).for_terms(inputs.train)
    assert source is not None
    data = training_data(inputs, inputs.train)
    chosen = [7, 2, 11, 3]
    batch = data.collator([data.rows[place] for place in chosen])
    order = batch["rows"][batch["attention_mask"].bool()].unique_consecutive().tolist()
    rows = read_json_lines(Path(values["data"]["train"]["path"]))
    by_hand = [expected(values, rows[index]) for index in order]
    found = source.signal(batch, SCORES).scores
    assert found is not None and sorted(order) == sorted(chosen)
    wanted = torch.cat([logp for logp, _ in by_hand])
    logp = found.chunk(slice(0, len(wanted) + 1), torch.device("cpu")).logp(WIDTH, 1.0)
    assert logp.shape == wanted.shape
    torch.testing.assert_close(logp.double(), wanted, rtol=1e-4, atol=1e-4)
    states = source.signal(batch, INSIDE).activations
    assert states is not None
    at = torch.nn.functional.pad(batch["answer_mask"][:, 1:], (0, 1))
    torch.testing.assert_close(states.hidden[1][at], torch.cat([state for _, state in by_hand]), rtol=1e-4, atol=1e-4)
    assert not states.hidden[1][~at].any()
    assert source.tokens(batch) > int(batch["attention_mask"].sum())  # type: ignore[attr-defined]


def test_a_student_learns_from_itself_with_a_hint_live_and_from_a_cache(values: dict[str, Any]) -> None:
    live = execute(RunRecipe(**values))
    kl = live.evaluation.value("kl_from_teacher")
    assert kl is not None and kl > 1e-4 and live.cost.teacher_tokens > live.cost.student_tokens
    assert live.evaluation.value("own_kl_from_teacher") is not None
    settings = {"teacher": values["teacher"], "arms": ["sft", "logits", "hidden_states", "seqkd"], "seeds": [0]}
    study = {name: value for name, value in values.items() if name != "method"} | settings
    results = Study(StudyRecipe(**study | {"output": values["output"] + "-study"}), reproduce="").run()
    cached = {arm.name: arm.evaluations[0] for arm in results.arms}["logits"]
    assert {use.kinds for use in results.caches} >= {("full",)}
    assert {arm.name: arm.costs[0].teacher_tokens for arm in results.arms}["logits"] == 0
    assert cached.value("own_kl_from_teacher") == pytest.approx(live.evaluation.value("own_kl_from_teacher"), abs=1e-4)
    assert cached.nats_per_token == pytest.approx(live.evaluation.nats_per_token, abs=1e-4)
    assert cached.value("kl_from_teacher") == pytest.approx(kl, abs=1e-4)
    (teacher,) = [point for point in results.baselines if point.role == "teacher"]
    assert teacher.name.endswith("-hint") and "it reads hint" in str(teacher.note)
    assert results.arms[0].evaluations[0].value("kl_from_teacher") != kl


def test_a_recipe_in_python_takes_the_column(values: dict[str, Any], tmp_path: Path) -> None:
    path, rows = values["student"]["path"], read_json_lines(Path(values["data"]["train"]["path"]))
    settings = {
        "teacher.prompt_column": "hint",
        "evaluation.generate_rows": 0,
        "training.device": "cpu",
        "data.max_tokens": 96,
    }
    run = dl.distil(student=path, teacher=path, train=rows, steps=1, output=tmp_path / "python", settings=settings)
    assert run.record.evaluation.value("kl_from_teacher")


@pytest.mark.parametrize(
    ("term", "rule"),
    [
        ({"kind": "attention_relations"}, "attention_relations compares what both"),
        ({"kind": "attention_maps"}, "attention_maps compares what both"),
        ({"kind": "hidden_states", "positions": "all"}, "hidden_states compares what both"),
        ({"kind": "span_likelihood"}, "span_likelihood compares what both"),
    ],
)
def test_terms_that_read_the_prompt_are_refused(values: dict[str, Any], term: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        RunRecipe(**values | {"terms": [{"kind": "cross_entropy"}, term]})


def test_the_source_gives_nothing_of_the_prompt(values: dict[str, Any]) -> None:
    inputs = load_inputs(RunRecipe(**values))
    source = RunTeacher(inputs).for_terms(inputs.train)
    assert source is not None
    for spec in (ActivationSpec(projections=frozenset({1})), ActivationSpec(hidden=frozenset({1}))):
        with pytest.raises(TeacherError, match="positions of the prompt"):
            source.require(SignalRequest(activations=spec, hidden_at=frozenset({"all"})), packing=False)


def test_rows_without_a_hint_are_counted(values: dict[str, Any]) -> None:
    path = Path(values["data"]["train"]["path"])
    rows = read_json_lines(path)
    rows[1]["hint"], rows[4]["hint"] = None, " "
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match="2 of 60 rows have no prompt for the teacher") as error:
        load_inputs(RunRecipe(**values))
    assert "train.jsonl:2: none" in str(error.value)


def test_a_hint_that_the_teacher_cannot_read_whole_is_refused(values: dict[str, Any]) -> None:
    path = Path(values["data"]["train"]["path"])
    rows = read_json_lines(path)
    rows[3]["hint"] = "a long hint " * 60
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    inputs = load_inputs(RunRecipe(**values))
    with pytest.raises(DataError, match="1 of 60 rows do not fit into the teacher's context of 128 tokens"):
        RunTeacher(inputs).for_terms(inputs.train)


def test_the_doctor_reads_the_teachers_prompts(values: dict[str, Any]) -> None:
    study = {name: value for name, value in values.items() if name != "method"}
    found = audit_recipe(StudyRecipe(**study | {"arms": ["sft", "logits"], "seeds": [0]}))
    assert not [one for check in found.checks for one in check.findings if one.severity == "error"]


def test_another_hint_is_another_run(values: dict[str, Any]) -> None:
    before = load_inputs(RunRecipe(**values)).fingerprints()
    path = Path(values["data"]["held_out"]["path"])
    path.write_text(path.read_text(encoding="utf-8").replace("The answer is", "It is", 1), encoding="utf-8")
    after = load_inputs(RunRecipe(**values)).fingerprints()
    assert [name for name in before if before[name] != after[name]] == ["teacher_columns"]
