"""Models in GGUF files: the weights that were written, what a run records of them, and each refusal."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from distillab.config.run import RunRecipe
from distillab.errors import ConfigError, DistillabError
from distillab.gguf_header import read_header
from distillab.models.gguf import quantization_of
from distillab.models.loading import load_model, weights_sha256
from distillab.runs.run import execute
from tests.gguf_files import Q, byte_level, tiny_llama, write_gguf

CPU = torch.device("cpu")
IDS = torch.arange(3, 35)[None]
TOKENIZER = byte_level(single_digits=True)
VOCABULARY = TOKENIZER.get_vocab_size()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(
        tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf", tiny_llama(VOCABULARY), TOKENIZER, kind=Q.Q8_0
    )


def _load(file: Path, role: str = "student") -> Any:
    return load_model(str(file), dtype="float32", device=CPU, revision=None, role=role)


def _refusal(file: Path) -> DistillabError:
    with pytest.raises(DistillabError) as caught:
        _load(file)
    return caught.value


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("kind", "quantization"),
    [(Q.F32, None), (Q.F16, None), (Q.Q8_0, "GGUF Q8_0, 8.6 bits a weight"), (Q.Q4_0, "GGUF Q4_0, 4.6 bits a weight")],
)
def test_the_logits_are_those_of_the_model_that_was_written(
    tmp_path: Path, kind: Any, quantization: str | None, tied: bool
) -> None:
    model = tiny_llama(VOCABULARY, tied=tied)
    file = write_gguf(tmp_path / "model.gguf", model, TOKENIZER, kind=kind)
    read = _load(file)
    for parameter in model.parameters():  # gguf's own rounding of the source, in transformers' names and order of rows
        stored = kind if parameter.ndim > 1 else Q.F32
        rounded = gguf.dequantize(gguf.quantize(parameter.detach().numpy(), stored), stored)
        parameter.data.copy_(torch.from_numpy(rounded))
    with torch.no_grad():
        torch.testing.assert_close(read(IDS).logits, model(IDS).logits, rtol=0, atol=1e-6)
    assert quantization_of(str(file), None) == quantization
    assert not hasattr(read.config, "quantization_config")
    assert read.dtype == torch.float32


def test_the_fingerprint_is_that_of_the_file(good: Path, tmp_path: Path) -> None:
    copy = tmp_path / good.name
    content = bytearray(good.read_bytes())
    copy.write_bytes(content)
    assert weights_sha256(str(copy)) == weights_sha256(str(good))
    content[-1] ^= 1
    copy.write_bytes(content)
    assert weights_sha256(str(copy)) != weights_sha256(str(good))


def test_the_progress_bar_is_off_where_those_of_transformers_are(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        _load(good)
        assert capsys.readouterr().err == ""
    finally:
        if enabled:
            logging.enable_progress_bar()


def test_nothing_beside_the_file_is_read(good: Path, tmp_path: Path) -> None:
    alone = tmp_path / good.name
    alone.write_bytes(good.read_bytes())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json"):
        (tmp_path / name).write_text("{damaged")
    assert _load(alone).config.num_hidden_layers == 2
    assert _load(alone).name_or_path == str(alone)


def test_a_folder_is_its_safetensors_whatever_gguf_file_is_beside_them(good: Path, tmp_path: Path) -> None:
    tiny_llama(VOCABULARY).save_pretrained(tmp_path)
    (tmp_path / good.name).write_bytes(good.read_bytes())
    with torch.no_grad():
        torch.testing.assert_close(_load(tmp_path)(IDS).logits, tiny_llama(VOCABULARY)(IDS).logits)


@pytest.mark.parametrize("with_config", [True, False])
def test_a_folder_of_gguf_files_names_them(good: Path, tmp_path: Path, with_config: bool) -> None:
    (tmp_path / good.name).write_bytes(good.read_bytes())
    if with_config:
        (tmp_path / "config.json").write_text("{}")
    error = _refusal(tmp_path)
    assert isinstance(error, ConfigError) and f"give its path: {tmp_path}/{good.name}" in str(error)


def test_one_step_from_gguf_and_the_student_is_plain_safetensors(
    good: Path, tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    data = {**tiny_world["data"], "template": "chat"}
    training = {**tiny_world["training"], "steps": 1, "evaluate_every": 1}
    evaluation = {"rows": 4, "curve_rows": 4, "generate_rows": 2, "max_new_tokens": 4}
    record = execute(
        RunRecipe(
            name="gguf",
            method="logits",
            student={"path": str(good)},
            teacher={"path": str(good)},
            data=data,
            training=training,
            evaluation=evaluation,
            output=str(tmp_path / "run"),
        )
    )
    assert record.teacher is not None and record.teacher.quantization == "GGUF Q8_0, 8.6 bits a weight"
    assert [note for note in record.notes if "quantised" in note] == [
        f"the {role} was loaded from quantised weights: GGUF Q8_0, 8.6 bits a weight" for role in ("teacher", "student")
    ]
    assert record.fingerprints["student"] == weights_sha256(str(good))
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "run/student")
    assert student.dtype == torch.float32 and "quantization_config" not in json.loads(
        (tmp_path / "run/student/config.json").read_text()
    )
    trained = [(a != b).any() for a, b in zip(student.parameters(), _load(good).parameters(), strict=True)]
    assert any(trained)
    text = "10. ten\n\n2. two"
    saved = AutoTokenizer.from_pretrained(tmp_path / "run/student")
    assert saved(text)["input_ids"] == TOKENIZER.encode(text).ids


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _file(entries: bytes, count: int, *, version: int = 3, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + entries


_LLAMA = _string(b"general.architecture") + struct.pack("<I", 8) + _string(b"llama")
HUGE = 2**62


def _list(kind: int, length: int) -> bytes:
    return _string(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, kind, length)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(64), "not with b'GGUF'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        (b"GGUF", "damaged, or cut off"),
        (_file(_LLAMA, 1, version=1), "GGUF version 1"),
        (_file(b"", 0), "general.architecture None"),
        (_file(_LLAMA, HUGE), "damaged, or cut off"),
        (_file(_LLAMA, 1, tensors=HUGE), "damaged, or cut off"),
        (_file(_LLAMA + _LLAMA, 2), "stands there twice"),
        (_file(struct.pack("<Q", HUGE), 1), "beyond the header's end"),
        (_file(_LLAMA + _list(0, HUGE), 2), "beyond the header's end"),
        (_file(_LLAMA + _list(8, HUGE), 2), "damaged, or cut off"),
        (_file(_LLAMA + _list(9, 1), 2), "a list of values of the type 9"),
        (_file(_LLAMA + _list(0, 1) + b"\0", 2), "tokenizer.ggml.tokens is 1"),
        (_file(_LLAMA + _string(b"x") + struct.pack("<I", 99), 2), "a value of the type 99"),
        (_file(_LLAMA + _string(b"general.alignment") + struct.pack("<II", 4, 0), 2), "general.alignment is 0"),
        (_file(_LLAMA + _string(b"t") + struct.pack("<I", 2**32 - 1), 1, tensors=1), "4294967295 dimensions"),
        (_file(_LLAMA + _string(b"t") + struct.pack("<IQIQ", 1, 32, 4242, 0), 1, tensors=1), "storage type 4242"),
        (_file(_LLAMA + _string(b"t") + struct.pack("<IQIQ", 1, HUGE, 0, 0), 1, tensors=1), "its tensors end at"),
        (_file(_LLAMA + _string(b"split.count") + struct.pack("<II", 4, 3), 2), "parts: 3"),
    ],
)
def test_a_damaged_or_hostile_file_is_refused_by_its_header(content: bytes, fact: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    message = str(_refusal(file))
    assert fact in message and str(file) in message


def test_a_file_that_was_cut_off(good: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    for length in (100, 5_000, good.stat().st_size - 1):
        file.write_bytes(good.read_bytes()[:length])
        assert "cut off" in str(_refusal(file))


def test_a_file_that_is_not_there() -> None:
    assert "hf download" in str(_refusal(Path("organisation/model/model.gguf")))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"architecture": "made-up"}, "made-up is not supported"),
        ({"more": {"llama.rope.scaling.type": "linear"}}, "rope.scaling.type linear"),
        ({"extra_tensor": "rope_freqs.weight"}, "rope_freqs.weight"),
    ],
)
def test_what_transformers_does_not_read_is_refused(changes: dict[str, Any], fact: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", tiny_llama(VOCABULARY), TOKENIZER, **changes)
    message = str(_refusal(file))
    assert fact in message and "original model" in message


def test_without_the_package_the_error_names_it(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match="package gguf"):
        read_header(good, error=ConfigError)
