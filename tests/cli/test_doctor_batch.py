"""`distillab doctor batch`: what is printed, exit codes, and files that mean harm."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distillab.records import Investigation, read_record
from tests.cli.conftest import Run
from tests.doctor.batch_faults import end_masked_by_id, prompt_in_answer_out, rolled
from tests.doctor.batch_samples import World, pairs_of, tokenizer_of


@pytest.fixture(scope="module")
def world(materials: Path) -> World:
    return World(tokenizer_of(materials, "tok512"), pairs_of(materials))


@pytest.fixture
def doctor(run: Run, materials: Path):
    def call(file: Path, *words: str) -> tuple[int, str, str]:
        return run("doctor", "batch", str(file), "--tokenizer", str(materials / "tokenizers" / "tok512"), *words)

    return call


def saved(batch: object, path: Path) -> Path:
    torch.save(batch, path)
    return path


def test_a_good_batch(doctor, world, tmp_path):
    code, out, err = doctor(saved(world.good(), tmp_path / "batch.pt"), "--show", "2")
    assert code == 0, err
    assert "nothing was found" in out
    assert out.count("⟦") == 2 and "batch 0, row 1" in out and "batch 0, row 2" not in out
    # the answer's end is scored, the padding behind it is folded
    assert "·</s>⟧·‹</s> ×" in out


def test_an_error_is_exit_code_1_and_is_written(doctor, world, tmp_path):
    written = tmp_path / "found.json"
    code, out, _ = doctor(saved(prompt_in_answer_out(world), tmp_path / "batch.pt"), "--json", str(written))
    assert code == 1
    assert out.count("⟦") >= 3, "rows are shown although their labels are another text"
    assert "error: answer-at-prompt-positions" in out and "distillab doctor explain answer-at-prompt-positions" in out
    record = read_record(Investigation, written)
    assert record.findings[0].id == "answer-at-prompt-positions"
    assert record.findings[0].severity == "error"


def test_what_trains_the_wrong_thing_is_exit_code_1_until_it_is_said_that_it_is_meant(doctor, world, tmp_path):
    path = saved(rolled(world, 1), tmp_path / "batch.pt")
    code, out, _ = doctor(path)
    assert code == 1 and "error: labels-shifted-twice" in out and "--shifts batch" in out
    assert doctor(path, "--shifts", "model")[0] == 1
    code, out, _ = doctor(path, "--shifts", "batch")
    assert code == 0 and "labels-" not in out
    assert doctor(path, "--shifts", "nobody")[0] == 2


def test_all_kinds_of_files_say_the_same(doctor, world, tmp_path):
    batch = end_masked_by_id(world)
    save_file({key: tensor.contiguous() for key, tensor in batch.items()}, tmp_path / "one.safetensors")
    save_file({f"0.{key}": tensor.contiguous() for key, tensor in batch.items()}, tmp_path / "many.safetensors")
    lists = {key: tensor.tolist() for key, tensor in batch.items()}
    (tmp_path / "one.json").write_text(json.dumps(lists))
    rows = [{key: values[number] for key, values in lists.items()} for number in range(len(lists["labels"]))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved([batch], tmp_path / "many.pt")
    shown = set()
    for path in sorted(tmp_path.iterdir()):
        code, out, err = doctor(path)
        assert code == 1, f"{path.name}: {err}"
        shown.add(out.replace(path.name, ""))
    assert len(shown) == 1


class Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def test_a_pickle_that_runs_code_is_refused(doctor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"input_ids": Harm()}, "batch.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Harm()))
    for name in ("batch.pt", "plain.pt"):
        code, _, err = doctor(Path(name))
        assert code == 1 and err.startswith("DataError")
        assert "Unsupported" in err and "`False`" not in err  # what was refused, not how to load it all the same
    assert not Path("harmed").exists()


def claim(shape: tuple[int, ...]) -> torch.Tensor:
    """One stored number that claims to be many."""
    return torch.zeros(1, dtype=torch.int64).expand(shape)


HOSTILE = {
    "huge.pt": {"input_ids": claim((10**6, 10**6)), "labels": claim((10**6, 10**6))},
    "floats.pt": {"input_ids": torch.zeros(2, 3), "labels": torch.zeros(2, 3)},
    "deep.pt": {"input_ids": torch.zeros(2, 3, 4).long(), "labels": torch.zeros(2, 3, 4).long()},
    "sparse.pt": {"input_ids": torch.eye(3).long().to_sparse(), "labels": torch.eye(3).long()},
    "shapes.pt": {"input_ids": torch.zeros(2, 3).long(), "labels": torch.zeros(2, 4).long()},
    "numbers.pt": {"input_ids": 3, "labels": 4},
    "nothing.pt": {},
    "empty.pt": {"input_ids": torch.zeros(0, 5).long(), "labels": torch.zeros(0, 5).long()},
    "tensor.pt": torch.zeros(3),
    "strings.pt": ["a", "b"],
    "escape.pt": {"\x1b[31mred": torch.zeros(2)},
    "words.json": '{"input_ids": [["a"]], "labels": [["b"]]}',
    "large.json": '{"input_ids": [[' + "9" * 40 + ']], "labels": [[1]]}',
    "digits.json": '{"input_ids": [[' + "9" * 9000 + ']], "labels": [[1]]}',
    "nested.json": "[" * 100_000,
    "null.json": '{"input_ids": null, "labels": null}',
    "mixed.json": '{"input_ids": [[1], 2], "labels": [[1], 2]}',
    "keys.jsonl": '{"input_ids": [1], "labels": [1]}\n{"input_ids": [1]}\n',
    "broken.jsonl": '{"input_ids": [1], "labels": [1]}\n{"input_ids',
    "list.jsonl": "[1]\n",
    "empty.jsonl": "",
    "bytes.json": b"\xff\xfe\x00",
    "cut.safetensors": b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
    "cut.pt": b"PK\x03\x04 and no more",
    "other.parquet": b"PAR1",
}


@pytest.mark.parametrize("name", [*HOSTILE, "missing.pt", "folder.pt", "bomb.pt"])
def test_a_hostile_file_is_an_error(name, doctor, tmp_path):
    path = tmp_path / name
    content = HOSTILE.get(name)
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    elif name == "folder.pt":
        path.mkdir()
    elif name == "bomb.pt":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * (1 << 24))
        path.write_bytes(stream.getvalue())
    code, out, err = doctor(path)
    assert code == 1, out
    assert err.startswith(("DataError", "ShapeError"))
    assert "Traceback" not in err and "\x1b" not in err


def test_what_the_data_spells_does_not_reach_the_terminal(doctor, world, tmp_path):
    ids = world.text("a \x1b[31mred\u202e b") * 3
    batch = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([ids])}
    _, out, _ = doctor(saved(batch, tmp_path / "batch.pt"))
    assert "\x1b" not in out and "\u202e" not in out
    assert "red" in out.replace("·", "")
