"""Tasks of lm-evaluation-harness: its own figures, for every model of a study; hostile files are refused.

The harness is not in the environment itself but beside it (`VENV/lm_eval`), or where the tests' user has installed it.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillab.config.evaluation import EvaluationConfig, EvaluationTask
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError, DataError, DistillabError
from distillab.evaluation.tasks import _tasks_of_the_harness, evaluate_tasks
from distillab.records import StudyResults, read_record
from distillab.report.build import write_report
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.study.study import Study
from tests.processes import ended, start_distillab

PACKAGES = Path(sys.prefix) / "lm_eval"

Write = Callable[..., EvaluationTask]


@pytest.fixture(autouse=True)
def _harness(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("lm_eval") is None:
        if not PACKAGES.is_dir():
            pytest.skip("make setup installs lm_eval beside the environment")
        monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a task of four stories' endings, one of two to choose, with changes."""
    rows = [
        {"q": "The sun is", "endings": [" hot", " wet"], "right": 0},
        {"q": "Once upon a", "endings": [" time", " car"], "right": 0},
        {"q": "The cat said", "endings": [" of", " hello"], "right": 1},
        {"q": "She was very", "endings": [" happy", " and"], "right": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def task(text: str = "", *, limit: int | None = None, without: str = "-", **changes: Any) -> EvaluationTask:
        values = {
            "task": "endings",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{q}}",
            "doc_to_choice": "{{endings}}",
            "doc_to_target": "right",
            "target_delimiter": "",
            "metadata": {"version": 2.5},
            **changes,
        }
        values.pop(without, None)
        path = tmp_path / f"task{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(json.dumps(values)[:-1] + (f", {text}" if text else "") + "}")
        return EvaluationTask(path=str(path), limit=limit)

    return task


GENERATES = {
    "task": "says",
    "output_type": "generate_until",
    "doc_to_target": "{{endings[right]}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def test_figures_are_those_of_the_harness_called_alone(materials: Path, write: Write) -> None:
    path = materials / "models" / "stories260K-tok512"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    padding = tokenizer.pad_token
    # without the outcome of generation being 0 everywhere, it would not be compared
    chosen = {**GENERATES, "doc_to_text": "{{q}}", "doc_to_target": "{{endings[0]}}"}
    tasks = [write(limit=3), write(**{**chosen, "doc_to_choice": None}, without="doc_to_choice")]
    talk = write(task="talk", fewshot_split="test", num_fewshot=1)
    tasks.append(talk.model_copy(update={"chat_template": True}))
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    metrics, records, scores = evaluate_tasks(model, tokenizer, tasks, batch_size=2)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert tokenizer.pad_token == padding

    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    ours = {metric.name: metric for metric in metrics}
    for task, record in zip(tasks, records, strict=True):
        alone = lm_eval.simple_evaluate(
            HFLM(pretrained=str(path), tokenizer=tokenizer, dtype="float32", device="cpu", batch_size=2),
            tasks=[str(task.path)],
            limit=task.limit,
            apply_chat_template=task.chat_template,
            task_manager=TaskManager(include_defaults=False),
        )
        expected = {key: v for key, v in alone["results"][record.name].items() if "," in key and v != "N/A"}
        assert expected
        for key, value in expected.items():
            assert ours.pop(f"{record.name}/{key}").value == value
        hashes = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in alone["samples"][record.name])
        assert record.sha256 == lm_eval.utils.hash_string(hashes)
        assert (record.version, record.harness, record.num_fewshot) == (
            "2.5",
            lm_eval.__version__,
            int(task is tasks[2]),
        )
        assert record.documents == (task.limit or 4)
        kept = {name: values for name, values in scores.items() if name.startswith(f"{record.name}/")}
        assert kept and not any("stderr" in name for name in kept)
        for name, values in kept.items():
            measure, taken = name.partition("/")[2].split(",")
            samples = [one for one in alone["samples"][record.name] if one["filter"] == taken]
            assert list(values) == [one[measure] for one in samples] and len(values) == record.documents
    assert not ours
    by_name = {metric.name: metric for metric in metrics}
    acc = by_name["endings/acc,none"]
    assert (acc.unit, acc.direction, acc.n, acc.level) == ("share", "higher", 3, "summary")
    assert 0 < acc.value < 1 or by_name["endings/acc_norm,none"].value != acc.value  # the models' choices differ
    error = by_name["endings/acc_stderr,none"]
    assert (error.direction, error.level) == (None, "table") and error.value == pytest.approx(
        (acc.value * (1 - acc.value) / 2) ** 0.5
    )


def test_every_model_of_a_study_is_evaluated_and_the_report_has_the_figures(
    tiny_world: dict[str, Any], tmp_path: Path, write: Write
) -> None:
    values = {**tiny_world, "seeds": [0]}
    values["evaluation"] = {**values["evaluation"], "tasks": [write().model_dump()], "generate_rows": 0}
    study = Study(StudyRecipe(**values, output=str(tmp_path / "study"), arms=["sft"]), reproduce="x")
    results = study.run()
    models = [*results.baselines, *results.arms]
    evaluations = [
        *(one.evaluation for one in results.baselines),
        *(e for arm in results.arms for e in arm.evaluations),
    ]
    assert len(models) == 3
    assert all(one.value("endings/acc,none") is not None and one.tasks[0].documents == 4 for one in evaluations)
    assert read_record(StudyResults, tmp_path / "study" / "results.json") == results
    for page in write_report(results, tmp_path):
        text = page.read_text(encoding="utf-8").replace("\\_", "_")
        assert "endings acc_norm" in text and "standard error" in text and "version 2.5" in text


def test_arms_are_compared_document_by_document(tiny_world: dict[str, Any], tmp_path: Path, write: Write) -> None:
    task = write()
    rows = [{"q": f"{letter} {n}", "endings": [" a", f" {n}"], "right": n % 2} for letter in "abc" for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {**tiny_world, "seeds": [0, 1]}
    values["evaluation"] = {**values["evaluation"], "tasks": [task.model_dump()], "generate_rows": 0}
    folder = tmp_path / "study"
    results = Study(StudyRecipe(**values, output=str(folder), arms=["sft", "logits"]), reproduce="x").run()
    found = {one.metric: one.difference for one in results.arms[1].comparisons if one.family == "benchmark"}
    assert set(found) == {"endings/acc,none", "endings/acc_norm,none"}

    def documents(arm: str, seed: int, metric: str) -> Any:
        line, *_ = (folder / "runs" / arm / f"seed{seed}" / "held_out.jsonl").read_text().splitlines()
        return np.array(json.loads(line)["task_scores"][metric])

    for metric, difference in found.items():
        each = [[documents(arm, seed, metric) for seed in (0, 1)] for arm in ("logits", "sft")]
        assert all(len(one) == 12 for arm in each for one in arm)
        assert difference.mean == pytest.approx(float(np.mean(each[0]) - np.mean(each[1])))
        assert (difference.rows, difference.seeds, difference.direction) == (12, 2, "higher")
        assert difference.low is not None and difference.low <= difference.mean
    page = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
    assert "endings acc: Δ to SFT" in page.replace("\\_", "_")


def test_a_changed_task_is_another_run(tiny_world: dict[str, Any], tmp_path: Path, write: Write) -> None:
    task = write()
    base = {key: value for key, value in tiny_world.items() if key != "seeds"}
    evaluation = {**base["evaluation"], "tasks": [task.model_dump()]}
    recipe = RunRecipe(**{**base, "evaluation": evaluation, "method": "sft", "output": str(tmp_path / "run")})
    before = load_inputs(recipe).fingerprints()
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps({"q": "A", "endings": [" b", " c"], "right": 0}) + "\n")
    after = load_inputs(recipe).fingerprints()
    assert {name for name in after if before[name] != after[name]} == {f"task file {tmp_path / 'rows.jsonl'}"}


HOSTILE = {
    "function": ({"text": '"process_docs": !function evil.run'}, "names code"),
    "object": (
        {"text": '"doc_to_decontamination_query": !!python/object/apply:os.system ["touch MARK"]'},
        "names code",
    ),
    "class": ({"class": "evil.Task"}, "setting that distillab does not take"),
    "include": ({"include": "evil.yaml"}, "setting that distillab does not take"),
    "custom rows": ({"custom_dataset": "evil.rows"}, "setting that distillab does not take"),
    "code of a prompt": ({"use_prompt": "promptsource:all"}, "setting that distillab does not take"),
    "metric from a folder": ({"metric_list": [{"metric": "./evil"}]}, "none of lm-evaluation-harness"),
    "metric from the Hub": ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "runs code from the Hub"),
    "generation": ({**GENERATES, "generation_kwargs": {"custom_generate": "./evil"}}, "generation setting"),
    "rows by code": ({"dataset_path": "./evil"}, "rows come from files"),
    "pickled rows": ({"dataset_path": "pandas"}, "rows come from files"),
    "template": (
        {"doc_to_text": "{{ cycler.__init__.__globals__.os.system('touch MARK') }}"},
        "cannot be made",
    ),
    "bomb": ({"text": f'"description": {"[" * 200}{"]" * 200}'}, "nested too deep"),
    "group": ({"task": ["gsm8k"]}, "settings of one task"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_could_run_code_is_refused_before_training(
    name: str, tiny_world: dict[str, Any], tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "MARK"
    code = f"open({str(mark)!r}, 'w')\ndef run(docs): return docs\n"
    (tmp_path / "evil.py").write_text(code)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(code)
    changes, message = HOSTILE[name]
    task = write(**changes)
    base = {key: value for key, value in tiny_world.items() if key != "seeds"}
    evaluation = {**base["evaluation"], "tasks": [task.model_dump()]}
    recipe = RunRecipe(**{**base, "evaluation": evaluation, "method": "sft", "output": str(tmp_path / "run")})
    with pytest.raises(DistillabError, match=message) as found:
        execute(recipe)
    assert found.value.where and (found.value.facts or found.value.fix)
    assert not mark.exists() and not (tmp_path / "run").exists()


def test_the_harness_alone_would_run_the_code_of_a_template(tmp_path: Path, write: Write) -> None:
    """So that the test above can fail: this is what the sandbox prevents."""
    from lm_eval.tasks import TaskManager

    task = write(doc_to_text=f"{{{{ cycler.__init__.__globals__.os.system('touch {tmp_path}/MARK') }}}}")
    TaskManager(include_defaults=False).load([str(task.path)])
    assert (tmp_path / "MARK").exists()


def test_missing_rows_and_answers_that_do_not_fit(tiny_world: dict[str, Any], tmp_path: Path, write: Write) -> None:
    def inputs(*tasks: EvaluationTask, **changes: Any) -> None:
        base = {key: value for key, value in tiny_world.items() if key != "seeds"} | changes
        evaluation = {**base["evaluation"], "tasks": [task.model_dump() for task in tasks]}
        load_inputs(RunRecipe(**{**base, "evaluation": evaluation, "method": "sft", "output": str(tmp_path / "run")}))

    missing = {"data_files": {"test": str(tmp_path / "none.jsonl")}}
    with pytest.raises(DataError, match="does not exist"):
        inputs(write(dataset_kwargs=missing))
    with pytest.raises(ConfigError, match="do not fit into the student's context") as found:
        inputs(write(**{**GENERATES, "generation_kwargs": {"until": ["."]}}))
    assert found.value.facts == ("tokens of an answer: 256", "context: 128")
    with pytest.raises(DataError, match="cannot be made"):
        inputs(write(test_split="validation"))
    with pytest.raises(ConfigError, match="no solved examples by its definition"):
        inputs(write(num_fewshot=0).model_copy(update={"num_fewshot": 2}))
    with pytest.raises(ConfigError, match="no chat template"):
        inputs(write().model_copy(update={"chat_template": True}))
    with pytest.raises(ConfigError, match="a part of the weights alone"):
        inputs(write(), student={**tiny_world["student"], "parallel": {"fsdp": 2}})


@pytest.fixture
def one_folder_of_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The harness finds the tasks of one of its folders: of all, it reads 15,000 files for 6 CPU seconds."""
    import lm_eval.tasks.manager

    shutil.copytree(Path(lm_eval.tasks.manager.__file__).parent / "gsm8k", tmp_path / "harness" / "gsm8k")
    monkeypatch.setattr(lm_eval.tasks.manager, "__file__", str(tmp_path / "harness" / "manager.py"))
    _tasks_of_the_harness.cache_clear()
    yield
    _tasks_of_the_harness.cache_clear()


@pytest.mark.usefixtures("one_folder_of_the_harness")
def test_names_are_the_harness_s_own_and_need_their_data_set(
    tiny_world: dict[str, Any], tmp_path: Path, write: Write
) -> None:
    def error(name: str) -> DistillabError:
        base = {key: value for key, value in tiny_world.items() if key != "seeds"}
        evaluation = {**base["evaluation"], "tasks": [{"task": name}]}
        with pytest.raises(DistillabError) as found:
            load_inputs(RunRecipe(**{**base, "evaluation": evaluation, "method": "sft", "output": str(tmp_path)}))
        return found.value

    assert "gsm8k" in str(error("gsm8kk").fix)
    # a name that is a file is no file: the harness would run the code that it names
    hostile = write('"process_docs": !function evil.run')
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'MARK')!r}, 'w')\ndef run(docs): return docs\n")
    assert "no such task" in error(str(hostile.path)).rule
    assert not (tmp_path / "MARK").exists()
    offline = error("gsm8k")
    assert isinstance(offline, DataError) and "HF_HUB_OFFLINE" in str(offline.fix)


def test_without_the_package_the_command_ends_before_training(tmp_path: Path, materials: Path, write: Write) -> None:
    folder = materials / "models" / "stories260K-tok512"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "student": {"path": str(folder)},
                "data": {"train": {"path": str(materials / "text/tinystories/stories_dev.jsonl"), "limit": 20}},
                "evaluation": {"tasks": [{"path": write().path}], "generate_rows": 0},
                "training": {"device": "cpu"},
                "output": str(tmp_path / "run"),
            }
        )
    )
    if find_spec("lm_eval") is not None and not PACKAGES.is_dir():
        pytest.skip("lm_eval is in the environment itself")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [folder for folder in sys.path if folder != str(PACKAGES)])
        code, err = ended(start_distillab("train", str(recipe)))
    assert code == 2, err
    assert "pip install 'distillab[lm-eval]'" in err and "Traceback" not in err


def test_settings_of_a_task() -> None:
    for wrong in ({}, {"task": "a", "path": "b"}, {"task": "a", "limit": 1}, {"task": "a", "limit": 0.5}):
        with pytest.raises(ValueError, match=r"task|limit"):
            EvaluationTask(**wrong)
    with pytest.raises(ValueError, match="twice"):
        EvaluationConfig(tasks=({"task": "a"}, {"task": "a", "limit": 2}))
