"""What a chat template is told of the day: one day for a work, whenever it goes on."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distillab.config import RunRecipe, StudyRecipe
from distillab.errors import CacheMismatch, ConfigError
from distillab.records import read_record
from distillab.records.runs import RunRecord
from distillab.runs.dates import dated
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.study.cache_build import cache_builds, run_build
from distillab.study.study import Study
from tests.data.conftest import CHATML

DAY, LATER = datetime.date(2020, 1, 2), datetime.date(2021, 1, 1)
TODAY = "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '.<|im_end|>\n' }}" + CHATML


@pytest.fixture
def chat_world(tiny_world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny world with a template that writes the day, as small as it trains."""
    models = {}
    for role in ("student", "teacher"):
        models[role] = {"path": str(tmp_path / role)}
        shutil.copytree(tiny_world[role]["path"], tmp_path / role)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / role)
        tokenizer.chat_template = TODAY
        tokenizer.save_pretrained(tmp_path / role)
    data = {key: value for key, value in tiny_world["data"].items() if key != "max_tokens"} | {"max_tokens": 128}
    return {
        **models,
        "data": data | {"template": "chat"},
        "training": tiny_world["training"] | {"steps": 1, "batch_size": 4, "evaluate_every": 1},
        "evaluation": {"rows": 4, "curve_rows": 2, "generate_rows": 0},
    }


def _run(world: dict[str, Any], folder: Path, date: datetime.date | None, **changes: Any) -> RunRecipe:
    return RunRecipe(**world | {"output": str(folder), "data": world["data"] | {"date": date}} | changes)


def test_a_run_goes_on_with_the_day_of_its_folder(chat_world: dict[str, Any], tmp_path: Path) -> None:
    record = execute(_run(chat_world, tmp_path / "run", DAY))
    assert record.fingerprints["template_date"] == "2020-01-02"
    # the recipe names no day: it is that of the folder, and not today
    assert execute(_run(chat_world, tmp_path / "run", None)) == record
    (tmp_path / "run" / "run.json").unlink()
    again = execute(_run(chat_world, tmp_path / "run", None))
    assert again.fingerprints == record.fingerprints and again.evaluation == record.evaluation
    with pytest.raises(ConfigError, match="another recipe") as refusal:
        execute(_run(chat_world, tmp_path / "run", LATER))
    assert "template_date" in str(refusal.value)


def test_the_prompts_have_the_day_that_is_named(chat_world: dict[str, Any], tmp_path: Path) -> None:
    for date in (DAY, LATER):
        inputs = load_inputs(_run(chat_world, tmp_path / "run", date))
        text = inputs.student.tokenizer.decode(inputs.train.rows[0].input_ids)
        assert f"Today is {date:%d %b %Y}." in text


def test_a_day_is_nothing_to_a_template_that_writes_none(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    world = {key: tiny_world[key] for key in ("student", "data", "evaluation")}
    first, second = (_run(world, tmp_path / "run", date) for date in (DAY, LATER))
    assert load_inputs(first).fingerprints() == load_inputs(second).fingerprints()
    assert load_inputs(first).train.rows[0].input_ids.tolist() == load_inputs(second).train.rows[0].input_ids.tolist()


def test_a_cache_serves_on_every_day_and_not_for_another(chat_world: dict[str, Any], tmp_path: Path) -> None:
    built = _run(chat_world, tmp_path / "run", DAY, method="logits")
    for item in cache_builds(built):
        run_build(item, worker=0, workers=1)
    location = tmp_path / "run" / "cache"
    assert json.loads((location / "identity.json").read_text())["template_date"] == "2020-01-02"
    # built again tomorrow, it is the same cache
    for item in cache_builds(_run(chat_world, tmp_path / "run", None, method="logits")):
        run_build(item, worker=0, workers=1)
    read = chat_world | {"teacher": {"cache": str(location)}}
    record = execute(_run(read, tmp_path / "read", None, method="logits"))
    assert record.fingerprints["template_date"] == "2020-01-02" and record.teacher_signals == "cached"
    with pytest.raises(CacheMismatch, match="made with another") as refusal:
        execute(_run(read, tmp_path / "other", LATER, method="logits"))
    assert "data.date: 2020-01-02" in str(refusal.value)


def test_an_arm_that_is_made_again_has_the_day_of_its_study(chat_world: dict[str, Any], tmp_path: Path) -> None:
    values = chat_world | {"arms": ["sft"], "seeds": [0], "output": str(tmp_path / "study")}

    def study(date: datetime.date | None) -> Study:
        recipe = StudyRecipe(**values | {"data": chat_world["data"] | {"date": date}})
        return Study(recipe, reproduce="")

    study(DAY).run()
    path = tmp_path / "study" / "runs" / "sft" / "seed0" / "run.json"
    before = read_record(RunRecord, path)
    shutil.rmtree(path.parent)
    study(None).run()
    after = read_record(RunRecord, path)
    assert after.fingerprints == before.fingerprints and after.evaluation == before.evaluation
    with pytest.raises(ConfigError, match="another recipe"):
        study(LATER).run()


def test_today_is_the_day_of_what_is_begun(chat_world: dict[str, Any], tmp_path: Path) -> None:
    before = datetime.date.today()
    found = dated(_run(chat_world, tmp_path / "run", None)).data.date
    assert found is not None and before <= found <= datetime.date.today()
