"""Folders that hold no whole model: refused before any work, with what was found and the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from distillab.errors import ConfigError, DistillabError, TeacherError
from distillab.models.loading import load_config, load_model, pick_device, random_model
from distillab.models.weights import require_weights

CPU = torch.device("cpu")
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4f' * 32}\nsize 2200119664\n".encode()
PAGE = b"<!doctype html><html><body>Access to this model is restricted.</body></html>"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers in one file."""
    folder = tmp_path_factory.mktemp("good") / "model"
    torch.manual_seed(0)
    LlamaForCausalLM(_config()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(good, tmp_path / "model"))


def _config(**changes: Any) -> LlamaConfig:
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    return LlamaConfig(**(sizes | changes))


def _load(folder: Path, role: str = "student") -> Any:
    return load_model(str(folder), dtype="float32", device=CPU, revision=None, role=role)


def _refusal(folder: Path, role: str = "student") -> str:
    """What is said by the check before any work."""
    with pytest.raises(DistillabError) as caught:
        require_weights(str(folder), role=role)
    assert type(caught.value) is (TeacherError if role == "teacher" else ConfigError)
    assert caught.value.fix
    return str(caught.value)


def _set(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, ["git-LFS pointer", "git lfs pull"]),
        (PAGE, ["web page", "accept its terms"]),
        (b"", ["empty"]),
        (b'{"error": "Entry not found"}', ["JSON"]),
        (b"\xff" * 400, ["damaged, or cut off"]),
    ],
    ids=["pointer", "page", "empty", "json", "noise"],
)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_file_that_is_no_weights_is_named_for_what_it_is(
    folder: Path, content: bytes, said: list[str], role: str
) -> None:
    (folder / WEIGHTS).write_bytes(content)
    message = _refusal(folder, role)
    assert WEIGHTS in message
    for part in said:
        assert part in message


def test_weights_that_were_cut_off(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cut off" in _refusal(folder)


@pytest.mark.parametrize("content", [POINTER, b"no pickle"])
def test_a_bin_file_that_torch_did_not_write(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    assert "pytorch_model.bin" in _refusal(folder)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(_config()).save_pretrained(tmp_path / "shards", max_shard_size="6KB")
    return tmp_path / "shards"


def test_a_part_is_missing(shards: Path) -> None:
    last = sorted(shards.glob("model-*.safetensors"))[-1]
    last.unlink()
    message = _refusal(shards)
    assert "missing" in message and last.name in message


def test_a_part_is_a_pointer(shards: Path) -> None:
    last = sorted(shards.glob("model-*.safetensors"))[-1]
    last.write_bytes(POINTER)
    message = _refusal(shards)
    assert "git-LFS pointer" in message and last.name in message


@pytest.mark.parametrize("content", [None, "[]", '{"weight_map": 3}', "{"])
def test_the_index_of_the_parts_is_missing_or_damaged(shards: Path, content: str | None) -> None:
    index = shards / "model.safetensors.index.json"
    if content is None:
        index.unlink()
    else:
        index.write_text(content)
    with pytest.raises(DistillabError, match="index") as caught:
        require_weights(str(shards), role="student")
    assert index.name in str(caught.value)


def test_parts_that_are_all_there_load(shards: Path) -> None:
    assert _load(shards).config.num_hidden_layers == 2


@pytest.mark.parametrize("beside", [True, False], ids=["beside-a-model", "alone"])
def test_an_adapter_is_no_model(folder: Path, beside: bool) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "organisation/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    if not beside:
        (folder / "config.json").unlink()
    message = _refusal(folder)
    assert "adapter of: organisation/base" in message and "merge_and_unload" in message


def test_a_weights_file_is_named_instead_of_its_folder(folder: Path) -> None:
    assert f"give its folder: {folder}" in _refusal(folder / WEIGHTS)


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("https://huggingface.co/organisation/model", "write organisation/model"),
        ("https://huggingface.co/organisation/model/tree/main", "write organisation/model"),
        ("hf://organisation/model", "write organisation/model"),
        ("https://example.org/some/model.tar.gz", "download it"),
    ],
)
def test_a_url_is_answered_with_the_hub_id(url: str, fix: str) -> None:
    message = _said(lambda: require_weights(url, role="student"))
    assert "not a URL" in message and fix in message


def _said(call: Callable[[], object]) -> str:
    with pytest.raises(DistillabError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(("prefix", "wrapper"), [("_orig_mod.", "torch.compile"), ("module.", "DDP")])
def test_weights_that_were_saved_through_a_wrapper(folder: Path, prefix: str, wrapper: str) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({prefix + name: w for name, w in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    message = _refusal(folder)
    assert wrapper in message and f'removeprefix("{prefix}")' in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 1}, ["no place for", "9 left over", "layers.1", "num_hidden_layers 1"]),
        ({"num_hidden_layers": 3}, ["lack parameters", "9 missing", "num_hidden_layers 3"]),
        ({"vocab_size": 41}, ["other shapes", "40×16 in the file, 41×16 expected"]),
        ({"vocab_size": 39}, ["other shapes", "40×16 in the file, 39×16 expected"]),
        ({"intermediate_size": 32}, ["other shapes", "6 differ", "intermediate_size 32"]),
        ({"num_attention_heads": 0}, ["cannot be"]),
        ({"hidden_size": -4}, ["cannot be"]),
        ({"model_type": "llamma"}, ["config.json cannot be used", "llamma"]),
        ({"vocab_size": "many"}, ["cannot be"]),
    ],
)
def test_a_config_that_does_not_fit_its_weights(folder: Path, changes: dict[str, Any], said: list[str]) -> None:
    _set(folder, **changes)
    message = _said(lambda: _load(folder))
    for part in said:
        assert part in message


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "exl2"])
def test_a_quantised_student_is_refused(folder: Path, method: str) -> None:
    _set(folder, quantization_config={"quant_method": method, "bits": 4})
    message = _said(lambda: _load(folder))
    assert "quantised weights cannot be trained" in message and method in message


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}, "gptqmodel"),
        ({"quant_method": "exl2", "bits": 4}, "exl2"),
    ],
    ids=["gptq", "awq", "unknown"],
)
def test_a_quantised_teacher_whose_package_is_missing_names_it(
    folder: Path, settings: dict[str, Any], package: str
) -> None:
    _set(folder, quantization_config=settings)
    with pytest.raises(TeacherError) as caught:
        _load(folder, "teacher")
    assert package in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", '{"model_type": 3}', '{"a":' * 5000 + "1" + "}" * 5000])
def test_a_config_that_is_no_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in _said(lambda: load_config(str(folder), revision=None))


def test_random_weights_of_a_config_that_makes_no_sense(folder: Path) -> None:
    _set(folder, num_attention_heads=0)
    with pytest.raises(ConfigError):
        random_model(str(folder), seed=0, dtype="float32", device=CPU, revision=None)


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="this machine has the devices that the test asks for")
@pytest.mark.parametrize("device", ["cuda:7", "cuda:banana", "gpu"])
def test_a_device_that_is_not_there(device: str) -> None:
    message = _said(lambda: pick_device(device))
    assert device in message and "fix:" in message
