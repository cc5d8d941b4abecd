"""`distillab doctor data`, and `doctor batch` on tokenised data sets: files in, findings and exit codes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM

from distillab.config.teacher import TeacherAnswersConfig
from distillab.data.reading import load_reader
from distillab.doctor.batch import files as tokenised
from distillab.doctor.data.subject import read_examples, read_teacher_texts
from distillab.pairing.loading import load_tokenizer
from distillab.records import Investigation, TeacherProvenance, read_record
from distillab.teachers import LocalTeacher
from distillab.teachers.stored.answer_identity import Prompt, answers_identity
from distillab.teachers.stored.answers import generate_store
from tests.cli.conftest import Run
from tests.doctor.batch_samples import World, pairs_of

SETTINGS = TeacherAnswersConfig(answers_per_prompt=2, sample=True, max_new_tokens=4, batch_size=8)


@pytest.fixture(scope="module")
def rows(materials: Path) -> list[dict[str, str]]:
    lines = (materials / "text" / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:100]
    return [json.loads(line) for line in lines]


@pytest.fixture
def doctor(run: Run, materials: Path):
    return lambda *words: run(
        "doctor", "data", *map(str, words), "--tokenizer", str(materials / "tokenizers" / "tok512")
    )


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_good_rows(doctor, rows, tmp_path):
    train, held_out = written(tmp_path / "a.jsonl", rows[:70]), written(tmp_path / "b.jsonl", rows[70:])
    code, out, err = doctor(train, "--held-out", held_out, "--max-tokens", 1200)
    assert code == 0, err
    assert "nothing was found" in out and "70 training rows, 30 held-out rows" in out


def test_an_error_is_exit_code_1_and_is_written(doctor, rows, tmp_path):
    train, held_out = written(tmp_path / "a.jsonl", rows[:70]), written(tmp_path / "b.jsonl", rows[40:70])
    code, out, _ = doctor(train, "--held-out", held_out, "--json", tmp_path / "found.json", "--report", tmp_path / "r")
    assert code == 1
    assert "error: train-held-out-overlap" in out and "distillab doctor explain train-held-out-overlap" in out
    record = read_record(Investigation, tmp_path / "found.json")
    assert (record.findings[0].id, record.findings[0].severity) == ("train-held-out-overlap", "error")
    assert "30 of 30 (100.0%)" in record.findings[0].evidence[0]
    assert (tmp_path / "r" / "investigation.html").is_file()


def test_answers_of_a_file_and_how_they_ended(doctor, rows, tmp_path):
    train = written(tmp_path / "a.jsonl", rows)
    said = [
        {"prompt": row["question"], "answer": f"So {row['answer']}", "finish_reason": ["stop", "length"][n % 2]}
        for n, row in enumerate(rows)
    ]
    code, out, err = doctor(train, "--answers", written(tmp_path / "said.jsonl", said), "--max-tokens", 1200)
    assert code == 0, err
    assert "warning: teacher-answers-cut-off" in out and "50 of 100 (50.0%)" in out
    assert "100 answers, 100 to prompts of the training rows" in out
    said[3]["finish_reason"] = "tool_calls"
    code, _, err = doctor(train, "--answers", written(tmp_path / "said.jsonl", said))
    assert code == 1 and "said.jsonl:4" in err and "tool_calls" in err


def test_columns_and_template_and_max_tokens_are_heeded(doctor, rows, tmp_path):
    file = written(tmp_path / "a.jsonl", [{"q": row["question"], "a": row["answer"]} for row in rows])
    assert doctor(file)[0] == 1
    code, _, err = doctor(file, "--prompt-column", "q")
    assert code != 0 and "belong together" in err
    code, out, _ = doctor(file, "--prompt-column", "q", "--answer-column", "a", "--max-tokens", "64")
    assert code == 0 and "warning: answers-cut-off" in out and "more than 64 tokens" in out
    code, out, _ = doctor(file, "--prompt-column", "q", "--answer-column", "a", "--max-tokens", "30")
    assert code == 1 and "error: prompts-fill-rows" in out
    rendered = [
        {"prompt": f"### Instruction:\n{r['question']}\n\n### Response:\n", "answer": r["answer"]} for r in rows
    ]
    assert "warning: prompts-already-rendered" in doctor(written(file, rendered), "--template", "alpaca")[1]
    assert "note: prompts-already-rendered" in doctor(file, "--template", "plain")[1]


@pytest.mark.parametrize("words", [["missing.jsonl"], ["--held-out", "missing.jsonl"], ["--answers", "missing.jsonl"]])
def test_what_cannot_be_read_is_an_error(words, doctor, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = [] if words[0] == "missing.jsonl" else [written(Path("a.jsonl"), rows)]
    code, _, err = doctor(*train, *words)
    assert code == 1 and "missing.jsonl" in err and "Traceback" not in err


def test_a_store_of_answers(doctor, rows, materials, tmp_path):
    """Answers of a real model; four tokens are too few for it, so nothing ends."""
    train = written(tmp_path / "a.jsonl", rows[:20])
    path = str(materials / "models" / "stories260K-tok512")
    reader = load_reader(path, revision=None, template="auto", kind="pair", max_tokens=512)
    examples = read_examples(str(train), columns=None)
    prompts = [Prompt(example.key, tuple(reader.encoder.encode_prompt(example))) for example in examples]
    provenance = TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0")
    torch.manual_seed(0)
    teacher = LocalTeacher(AutoModelForCausalLM.from_pretrained(path), provenance)
    stop_ids = list(reader.encoder.stop_ids)
    identity = answers_identity(
        teacher.identity, tokenizer="t", stop_ids=stop_ids, prompts=prompts, settings=SETTINGS, source="prompts"
    )
    generate_store(
        tmp_path / "store",
        teacher=teacher,
        tokenizer=reader.tokenizer,
        stop_ids=stop_ids,
        prompts=prompts,
        settings=SETTINGS,
        identity=identity,
    )
    texts = read_teacher_texts(str(tmp_path / "store"), examples)
    assert len(texts) == 40 and {text.prompt for text in texts} == {row["question"] for row in rows[:20]}
    code, out, err = doctor(train, "--answers", tmp_path / "store", "--max-tokens", 1200)
    assert code == 1 and "error: teacher-answers-cut-off" in out, err
    code, _, err = doctor(written(tmp_path / "other.jsonl", rows[20:40]), "--answers", tmp_path / "store")
    assert code == 1 and "other prompts" in err and "40 of 40 answers" in err


@pytest.fixture(scope="module")
def world(materials: Path) -> World:
    return World(load_tokenizer(str(materials / "tokenizers" / "tok512")).tokenizer, pairs_of(materials))


@pytest.fixture
def batch(run: Run, materials: Path):
    return lambda *words: run(
        "doctor", "batch", *map(str, words), "--tokenizer", str(materials / "tokenizers" / "tok512"), "--show", "1"
    )


def unpadded(world: World) -> list[dict[str, list[int]]]:
    return [{"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)} for ids, labels in world.rows()]


def test_a_saved_data_set_is_read_as_its_rows(batch, world, tmp_path):
    rows = unpadded(world)
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows", num_shards=2)
    written(tmp_path / "rows.jsonl", rows)
    code, out, err = batch("--dataset", tmp_path / "rows")
    assert code == 0 and "nothing was found" in out, err
    assert out.replace("rows.jsonl", "rows") == batch("--dataset", tmp_path / "rows.jsonl")[1].replace(
        "rows.jsonl", "rows"
    )
    no_end = [{key: [*values[:-1], values[-2]] for key, values in row.items()} for row in rows]
    Dataset.from_list(no_end).save_to_disk(tmp_path / "no_end")
    assert "eos-missing" in batch("--dataset", tmp_path / "no_end")[1]
    assert batch("--dataset", tmp_path / "rows", tmp_path / "rows.jsonl")[0] != 0
    assert batch()[0] != 0


def test_rows_behind_the_first_are_compared_and_said(batch, world, tmp_path, monkeypatch):
    rows = unpadded(world)
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    written(tmp_path / "held.jsonl", rows[-1:])
    monkeypatch.setattr(tokenised, "MOST_TOKENS", len(rows[0]["input_ids"]) + 1)
    code, out, _ = batch("--dataset", tmp_path / "rows", "--held-out", tmp_path / "held.jsonl")
    assert f"1 of {len(rows)} rows" in out
    assert code == 1 and "error: train-held-out-overlap" in out and f"training row {len(rows) - 1}" in out


@pytest.mark.parametrize(("shared", "severity"), [(0, None), (1, "warning"), (8, "error")])
def test_overlap_of_tokenised_rows_whatever_their_padding(shared, severity, batch, world, tmp_path):
    torch.save(world.good(side="left"), tmp_path / "train.pt")
    rows = unpadded(world)[:shared]
    fresh = [{key: list(reversed(values)) for key, values in row.items()} for row in unpadded(world)[shared:]]
    Dataset.from_list(rows + fresh).save_to_disk(tmp_path / "held")
    code, out, err = batch(tmp_path / "train.pt", "--held-out", tmp_path / "held")
    assert ("train-held-out-overlap" in out) == (severity is not None), err
    assert severity is None or f"{severity}: train-held-out-overlap" in out
    assert code == (1 if severity == "error" else 0)


def spoiled(folder: Path, name: str, world: World) -> Path:
    rows = unpadded(world)
    if name == "splits":
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(folder / "d")
        return folder / "d"
    if name == "no labels":
        rows = [{"input_ids": row["input_ids"]} for row in rows]
    if name == "texts":
        rows = [{"text": "a"}]
    if name == "strings":
        rows = [{"input_ids": ["a"], "labels": ["a"]}]
    if name == "unequal":
        rows = [{"input_ids": [1, 2], "labels": [1]}]
    if name == "nulls":
        rows = [{"input_ids": [1, None], "labels": [1, 2]}]
    Dataset.from_list(rows).save_to_disk(folder / "d")
    if name == "cut":
        arrow = next((folder / "d").glob("*.arrow"))
        arrow.write_bytes(arrow.read_bytes()[:300])
    if name == "gone":
        next((folder / "d").glob("*.arrow")).unlink()
    if name == "elsewhere":
        (folder / "d" / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    if name == "state":
        (folder / "d" / "state.json").write_text("[]")
    if name == "no state":
        (folder / "d" / "state.json").unlink()
    return folder / "d"


SAID = {
    "splits": "splits: train",
    "no labels": "no labels",
    "texts": "doctor data",
    "strings": "lists of integers",
    "unequal": "input_ids: 2",
    "nulls": "null",
    "cut": "damaged",
    "gone": "damaged",
    "elsewhere": "outside",
    "state": "state.json",
    "no state": "save_to_disk",
}


@pytest.mark.parametrize("name", SAID)
def test_a_data_set_that_is_none_is_an_error(name, batch, world, tmp_path):
    code, _, err = batch("--dataset", spoiled(tmp_path, name, world))
    assert code == 1 and err.startswith("DataError") and SAID[name] in err, err
    assert "Traceback" not in err
