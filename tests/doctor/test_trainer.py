"""Configs of axolotl and LLaMA-Factory with data sets as those programs write them: good ones, and faults in each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.doctor.batch_samples import ROWS, Row
from tests.doctor.trainer_samples import Place
from transformers import LlamaConfig

from distillab.doctor.trainer.audit import audit_trainer
from distillab.errors import ConfigError, DataError
from distillab.records import Investigation


@pytest.fixture(params=["axolotl", "LLaMA-Factory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, materials: Path) -> Place:
    return Place(tmp_path, materials, request.param)


def graver(found: Investigation) -> dict[str, str]:
    """Findings that are no notes, and no repeated row: the samples are few."""
    given = {one.id: one.severity for one in found.findings if one.severity != "note"}
    given.pop("duplicated-rows", None)
    return given


def mapped(place: Place, change: Callable[[Row], Row]) -> None:
    place.rows = [change(row) for row in place.rows]


def test_a_good_run_is_left_in_peace(place: Place) -> None:
    found = place.check()
    assert graver(found) == {}
    checks = {one.check: one for one in found.checks}
    assert not [
        one.check for one in found.checks if one.skipped and one.check in ("prepared rows", "rows of the data set")
    ]
    assert f"{ROWS:,} rows" in checks["rows"].scope and f"{2 * len(place.world.pairs):,} rows" in checks["texts"].scope


def masks_prompts_no_more(place: Place) -> None:
    mapped(place, lambda row: (row[0], row[0]))


def shifts_labels(place: Place) -> None:
    mapped(place, lambda row: (row[0], [*row[1][1:], -100]))


def forgets_the_end(place: Place) -> None:
    place.rows = place.world.rows(end=False)


def prepares_longer_rows(place: Place) -> None:
    longest = max(len(ids) for ids, _ in place.rows)
    # LLaMA-Factory's packed rows have one token more
    place.config["sequence_len" if place.tool == "axolotl" else "cutoff_len"] = longest - 2


def forgets_an_exponent(place: Place) -> None:
    place.config["learning_rate"] = 2.0


def learns_nothing(place: Place) -> None:
    place.config["learning_rate"] = 0.0


def warms_up_too_long(place: Place) -> None:
    place.config |= {"warmup_steps": 500, "max_steps": 500}


def packs_without_borders(place: Place) -> None:
    if place.tool == "axolotl":
        place.config["flash_attention"] = False
    else:
        place.config["packing"] = True


def misspells_a_key(place: Place) -> None:
    name = "sequence_len" if place.tool == "axolotl" else "cutoff_len"
    place.config["sequence_lenn" if place.tool == "axolotl" else "cutof_len"] = place.config.pop(name)


def has_damaged_rows(place: Place) -> None:
    for row in place.texts:
        row["output"] = f"It’s so – the café: {row['output']}".encode().decode("cp1252")


def of_a_model(place: Place, **settings: object) -> None:
    """The config's model has a config.json, too, with 1,024 positions in bfloat16 if nothing else is said."""
    folder = place.folder / "model"
    shutil.copytree(place.model, folder)
    LlamaConfig(**{"dtype": "bfloat16", "max_position_embeddings": 1024} | settings).save_pretrained(folder)
    place.config["base_model" if place.tool == "axolotl" else "model_name_or_path"] = str(folder)


def wants_more_positions(place: Place) -> None:
    of_a_model(place, max_position_embeddings=1023)


def trains_bfloat16_in_float16(place: Place) -> None:
    of_a_model(place)
    place.config |= {"fp16": True, "bf16": False}


FAULTS = {
    masks_prompts_no_more: ("prompt-in-loss", "error"),
    shifts_labels: ("labels-shifted-twice", "error"),
    forgets_the_end: ("eos-missing", "error"),
    prepares_longer_rows: ("prepared-with-other-settings", "warning"),
    forgets_an_exponent: ("learning-rate-unusual", "warning"),
    learns_nothing: ("learning-rate-zero", "error"),
    warms_up_too_long: ("schedule-only-warms-up", "warning"),
    packs_without_borders: ("packed-without-boundaries", "warning"),
    misspells_a_key: ("setting-misspelt", "warning"),
    has_damaged_rows: ("text-damaged", "warning"),
    wants_more_positions: ("positions-wrong", "warning"),
    trains_bfloat16_in_float16: ("gradient-not-finite", "warning"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_is_found(fault: Callable[[Place], None], place: Place) -> None:
    fault(place)
    found = graver(place.check())
    name, severity = FAULTS[fault]
    assert found.get(name) == severity, found
    assert {id for id, grade in found.items() if grade == "error"} <= {name}


def test_a_model_that_fits_and_one_that_is_stretched_are_left_in_peace(place: Place) -> None:
    of_a_model(place)
    assert graver(place.check()) == {}
    place.config |= {"sequence_len": 4096, "cutoff_len": 4096, "rope_scaling": "linear", "fp16": False}
    assert graver(audit_trainer(place.written())) == {}


def test_a_warm_up_is_compared_with_the_steps_of_the_prepared_rows(place: Place) -> None:
    place.config |= {"sample_packing": False, "micro_batch_size": 2, "per_device_train_batch_size": 2}
    place.config["warmup_steps"] = 3 * ROWS // 2
    assert graver(place.check()) == {"schedule-only-warms-up": "warning"}
    place.config |= {"warmup_steps": 3 * ROWS // 2 - 1}
    assert graver(audit_trainer(place.written())) == {}


def test_whole_texts_are_meant_where_the_config_says_so(place: Place) -> None:
    masks_prompts_no_more(place)
    place.config |= {"train_on_inputs": True, "train_on_prompt": True}
    assert graver(place.check()) == {}


def test_tokens_that_the_config_adds_are_tokens(tmp_path: Path, materials: Path) -> None:
    place = Place(tmp_path, materials, "axolotl")
    new = len(place.world.tokenizer)
    mapped(place, lambda row: ([*row[0], new], [*row[1], -100]))
    assert "ids-outside-vocabulary" in graver(place.check())
    place.config["special_tokens"] = {"pad_token": "<|pad|>"}
    assert graver(audit_trainer(place.written())) == {}


def test_what_is_not_there_is_named(place: Place) -> None:
    place.config |= {
        "dataset_prepared_path": "nowhere",
        "tokenized_path": "nowhere",
        "dataset": "other",
        "dataset_dir": "none",
    }
    place.config["datasets"] = [{"path": "someone/set", "type": "alpaca"}, {"path": str(place.folder), "type": "orpo"}]
    skipped = {one.check: one.skipped for one in audit_trainer(place.written()).checks}
    assert "no prepared data set" in skipped["prepared rows"] and skipped["rows of the data set"]
    place.config |= {"base_model": str(place.folder / "gone"), "model_name_or_path": str(place.folder / "gone")}
    del place.config["base_model" if place.tool == "LLaMA-Factory" else "model_name_or_path"]
    skipped = {one.check: one.skipped for one in audit_trainer(place.written()).checks}
    assert "--tokenizer FOLDER" in skipped["prepared rows"]


HOSTILE = [
    ("base_model: [1]\n", DataError, "cannot use"),
    ("base_model: x\nsequence_len: -3\n", DataError, "sequence_len"),
    ("base_model: x\nlearning_rate: fast\n", DataError, "learning_rate"),
    ("base_model: x\ndatasets: rows.jsonl\n", DataError, "datasets"),
    ("model_name_or_path: x\ncutoff_len: 1e999\n", DataError, "cutoff_len"),
    ("model_name_or_path: x\nwarmup_steps: .nan\n", DataError, "warmup_steps"),
    ("name: x\n", ConfigError, "neither axolotl's nor"),
    ("a: {b", ConfigError, "not YAML"),
    ("- 1\n", ConfigError, "mapping"),
    ("base_model: &a [*a]\n", ConfigError, "contains itself"),
]


@pytest.mark.parametrize(("text", "kind", "said"), HOSTILE, ids=[said for _, _, said in HOSTILE])
def test_a_config_that_is_none_is_an_error(text: str, kind: type[Exception], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(kind) as error:
        audit_trainer(tmp_path / "config.yaml")
    assert said in str(error.value)
