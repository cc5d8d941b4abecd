"""Results of lm-evaluation-harness, as it writes them and with one fault each."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from distillab.cli.main import app
from distillab.doctor.tasks.audit import audit_tasks, read_results
from distillab.errors import DataError
from distillab.records import Investigation

PACKAGES = Path(sys.prefix) / "lm_eval"
DATE = "2026-12-01T09-00-00.123456"
N = 40


@pytest.fixture
def real(materials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small model's results on two tasks of 24 rows, written by the harness itself."""
    if find_spec("lm_eval") is None:
        if not PACKAGES.is_dir():
            pytest.skip("make setup installs lm_eval beside the environment")
        monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    rows = [{"q": f"The {n} sun is", "endings": [" hot", " wet", " a"], "right": n % 3} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "metadata": {"version": 2.0},
    }
    chooses = {
        "task": "chooses",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{endings}}",
        "doc_to_target": "right",
    }
    says = {
        "task": "says",
        "output_type": "generate_until",
        "doc_to_target": "{{endings[right]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
    }
    for task in (chooses, says):
        (tmp_path / f"{task['task']}.yaml").write_text(json.dumps(common | task))
    path = materials / "models" / "stories260K-tok512"
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    found = lm_eval.simple_evaluate(
        HFLM(
            pretrained=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(),
            tokenizer=AutoTokenizer.from_pretrained(path),
            batch_size=8,
        ),
        tasks=[str(tmp_path / "chooses.yaml"), str(tmp_path / "says.yaml")],
        task_manager=TaskManager(include_defaults=False),
        evaluation_tracker=tracker,
    )
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for name, lines in samples.items():
        tracker.save_results_samples(task_name=name, samples=lines)
    return tmp_path / "out"


def test_files_of_the_harness_are_read(real: Path) -> None:
    found = read_results(real)
    assert set(found.tasks) == {"chooses", "says"} and found.states_template and found.chat_template is None
    chooses, says = found.tasks["chooses"], found.tasks["says"]
    assert (chooses.shots, chooses.version, len(chooses.samples)) == (0, 2.0, 24)
    assert 0 <= chooses.figures["acc,none"] <= 1 and chooses.errors["acc,none"] > 0
    assert set(says.figures) == {"exact_match,none"}
    checks = {one.check: one for one in audit_tasks(real).checks}
    assert "24 samples" in checks["chooses"].scope and "task-at-chance" in {
        one.id for one in checks["chooses"].findings
    }
    assert [one for one in audit_tasks(real, real).findings if one.id == "tasks-compared-unlike"] == []


class Results:
    """A good results file: a task with four choices at 0.75, and one with two filters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.choices = [
            {"doc_id": n, "target": str(n % 4), "doc_hash": f"h{n}", "filter": "none",
             "resps": [[["-1.0" if c == (n + (n % 8 > 5)) % 4 else "-5.0", "False"]] for c in range(4)]}
            for n in range(N)
        ]  # fmt: skip
        self.written = [
            {"doc_id": n, "target": str(n), "doc_hash": f"h{n}", "filter": kind, "resps": [[f"So it is #### {n}"]],
             "filtered_resps": [str(n)]}
            for n in range(N)
            for kind in ("strict-match", "flexible-extract")
        ]  # fmt: skip
        self.value: dict[str, Any] = {
            "results": {
                "choose": {"alias": "choose", "acc,none": 0.75, "acc_stderr,none": 0.069},
                "write": {
                    "alias": "write",
                    **{f"exact_match,{kind}": 0.5 for kind in ("strict-match", "flexible-extract")},
                    **{f"exact_match_stderr,{kind}": 0.08 for kind in ("strict-match", "flexible-extract")},
                },
                "all": {"alias": "all", "acc,none": 0.6, "acc_stderr,none": "N/A"},
            },
            "group_subtasks": {"all": ["choose"], "choose": [], "write": []},
            "n-shot": {"choose": 0, "write": 5},
            "versions": {"choose": 1.0, "write": 3.0},
            "config": {"model": "hf", "model_args": "pretrained=someone/small-1b", "limit": None},
            "model_name": "someone/small-1b",
            "chat_template": None,
        }

    def write(self, date: str = DATE) -> Path:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"results_{date}.json"
        path.write_text(json.dumps(self.value), encoding="utf-8")
        for name, lines in (("choose", self.choices), ("write", self.written)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self.folder / f"samples_{name}_{date}.jsonl").write_text(text, encoding="utf-8")
        return path


def named(found: Investigation) -> dict[str, str]:
    return {one.id: one.severity for one in found.findings}


def test_good_results_are_left_in_peace(tmp_path: Path) -> None:
    path = Results(tmp_path).write()
    assert named(audit_tasks(path)) == named(audit_tasks(tmp_path)) == named(audit_tasks(path, tmp_path)) == {}
    assert {one.check for one in audit_tasks(path).checks} == {"template", "choose", "write"}, "a group is no task"


def guesses(results: Results) -> None:
    results.value["results"]["choose"] |= {"acc,none": 0.37, "acc_stderr,none": 0.077}


def takes_one_choice(results: Results) -> None:
    for line in results.choices:
        line["resps"] = [[["-1.0" if c == 2 else "-5.0", "False"]] for c in range(4)]


def writes_nothing(results: Results) -> None:
    for line in results.written[: N // 2]:
        line["resps"] = [[" "]]


def writes_the_same(results: Results) -> None:
    for line in results.written:
        line["resps"] = [["The answer is 4."]]


def misses_the_form(results: Results) -> None:
    results.value["results"]["write"]["exact_match,strict-match"] = 0.0
    for line in results.written[::2]:
        line["filtered_resps"] = ["[invalid]"]


def asks_without_a_template(results: Results) -> None:
    results.value["model_name"] = "someone/Small-1B-Instruct"


FAULTS: dict[Callable[[Results], None], str] = {
    guesses: "task-at-chance",
    takes_one_choice: "same-answer",
    writes_nothing: "task-answers-empty",
    writes_the_same: "same-answer",
    misses_the_form: "task-filter-finds-nothing",
    asks_without_a_template: "task-without-template",
}


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_is_found(fault: Callable[[Results], None], tmp_path: Path) -> None:
    results = Results(tmp_path)
    fault(results)
    found = audit_tasks(results.write())
    assert named(found).pop(FAULTS[fault]) == "warning" and set(named(found)) - {FAULTS[fault]} <= {"same-answer"}


def test_a_sample_with_two_filters_is_one_sample(tmp_path: Path) -> None:
    results = Results(tmp_path)
    writes_nothing(results)
    (finding,) = audit_tasks(results.write()).findings
    assert "10 of 40 (25.0%)" in finding.evidence[0]


def test_above_chance_by_more_than_two_errors_is_above_chance(tmp_path: Path) -> None:
    """Four choices: 0.25; two standard errors below 0.41 is 0.256."""
    results = Results(tmp_path)
    results.value["results"]["choose"] |= {"acc,none": 0.41, "acc_stderr,none": 0.077}
    assert named(audit_tasks(results.write())) == {}


def test_one_choice_that_is_right_everywhere_is_no_fault(tmp_path: Path) -> None:
    results = Results(tmp_path)
    takes_one_choice(results)
    results.choices = [line | {"target": "2"} for line in results.choices]
    assert named(audit_tasks(results.write())) == {}


def test_a_template_or_a_file_that_does_not_state_it(tmp_path: Path) -> None:
    results = Results(tmp_path)
    asks_without_a_template(results)
    results.value["chat_template"] = "{{ messages }}"
    assert named(audit_tasks(results.write())) == {}
    del results.value["chat_template"]
    checks = {one.check: one for one in audit_tasks(results.write()).checks}
    assert checks["template"].skipped is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.value["n-shot"].update(write=0), "examples in the prompt 5 and 0"),
        (lambda r: r.value["versions"].update(choose=2.0), "version 1.0 and 2.0"),
        (lambda r: r.value["config"].update(limit=100), "limit): None and 100"),
        (lambda r: r.value.update(chat_template="x"), "not applied and applied"),
        (lambda r: r.choices.pop(), f"samples {N} and {N - 1}"),
        (lambda r: r.choices[3].update(doc_hash="other"), "another text 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_found(change: Callable[[Results], Any], said: str, tmp_path: Path) -> None:
    one, two = Results(tmp_path / "a"), Results(tmp_path / "b")
    change(two)
    found = audit_tasks(one.write(), two.write())
    assert named(found) == {"tasks-compared-unlike": "warning"}
    assert any(said in line for line in found.findings[0].evidence), found.findings[0].evidence


def test_without_samples_what_needs_them_is_not_judged(tmp_path: Path) -> None:
    results = Results(tmp_path)
    guesses(results)
    path = results.write()
    shutil.move(path, tmp_path / "alone.json")
    for file in tmp_path.glob("samples_*"):
        file.unlink()
    found = audit_tasks(tmp_path / "alone.json")
    assert named(found) == {} and "no samples" in found.checks[1].scope


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"results": []}', '{"results": {}}', '{"results": {"a": 3}}', '{"results": {"a": {}}}',
     "[" * 50_000, '{"results": {"a": {"acc,none": "high"}}}'],
)  # fmt: skip
def test_a_file_that_is_none_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "results_x.json").write_text(text)
    with pytest.raises(DataError):
        audit_tasks(tmp_path)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"resps": 7}', '{"resps": []}', '{"resps": [[[]]]}', '{"resps": [["x", "y"]], "doc_id": [1]}']
)
def test_strange_samples_are_errors_or_not_judged(line: str, tmp_path: Path) -> None:
    path = Results(tmp_path).write()
    (tmp_path / f"samples_choose_{DATE}.jsonl").write_text(f"{line}\n" * 30)
    if line in ("{", "[]"):
        with pytest.raises(DataError):
            audit_tasks(path)
    else:
        assert named(audit_tasks(path)) == {}


def test_the_command(tmp_path: Path) -> None:
    results = Results(tmp_path)
    guesses(results)
    done = CliRunner().invoke(app, ["doctor", "tasks", str(results.write())])
    assert done.exit_code == 0 and "warning: task-at-chance" in done.output and "n = 40" in done.output
