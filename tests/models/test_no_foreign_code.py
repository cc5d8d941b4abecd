"""No Python that a model's or a data set's folder brings is ever run, whatever stands on the terminal's input."""

from __future__ import annotations

import ast
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import distillab
from distillab.config.data import SourceConfig
from distillab.data.sources import read_rows
from distillab.errors import ConfigError, DataError
from distillab.models.loading import load_config, load_model, random_model
from distillab.pairing.loading import load_tokenizer

CPU = torch.device("cpu")
LOADERS = (
    "from_pretrained",
    "from_config",
    "load_dataset",
    "pipeline",
    "load_dataset_builder",
    "get_class_from_dynamic",
)


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that hostile code would write; whoever asks on the terminal hears yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
    return tmp_path / "victim"


@pytest.fixture
def hostile(tmp_path: Path, victim: Path, tiny_world: dict[str, Any]) -> Path:
    """A model whose config, tokenizer and class are code of its own."""
    folder = tmp_path / "hostile"
    shutil.copytree(tiny_world["student"]["path"], folder)
    (folder / "evil.py").write_text(
        f"open({str(victim)!r}, 'w').write('run')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'evil'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokens(PreTrainedTokenizerFast):\n    pass\n"
    )
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": [None, "evil.Tokens"]}
    for name, change in (
        ("config.json", {"auto_map": code, "model_type": "evil", "architectures": ["Model"]}),
        ("tokenizer_config.json", {"auto_map": code, "tokenizer_class": "Tokens"}),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize(
    "load",
    [
        lambda path: load_config(path, revision=None),
        lambda path: load_model(path, dtype="float32", device=CPU, revision=None, role="student"),
        lambda path: random_model(path, seed=0, dtype="float32", device=CPU, revision=None),
        lambda path: load_tokenizer(path),
    ],
    ids=["config", "model", "random", "tokenizer"],
)
def test_a_folder_that_brings_code_is_refused(hostile: Path, victim: Path, load: Callable[[str], object]) -> None:
    with pytest.raises(ConfigError, match="which distillab never runs") as refusal:
        load(str(hostile))
    assert not victim.exists()
    assert refusal.value.where == str(hostile)
    assert refusal.value.fix is not None and "trust_remote_code" not in str(refusal.value)


def test_a_data_set_that_brings_code_is_refused(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    script = folder / "rows.py"
    script.write_text(f"open({str(victim)!r}, 'w').write('run')\n")
    for path in (folder, script):
        with pytest.raises(DataError):
            read_rows(SourceConfig(path=str(path)))
    assert not victim.exists()


def test_a_folder_with_code_that_transformers_does_not_need_is_loaded_without_it(
    tmp_path: Path, victim: Path, tiny_world: dict[str, Any]
) -> None:
    folder = tmp_path / "known"
    shutil.copytree(tiny_world["student"]["path"], folder)
    (folder / "evil.py").write_text(f"open({str(victim)!r}, 'w').write('run')\n")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    load_model(str(folder), dtype="float32", device=CPU, revision=None, role="student")
    assert not victim.exists()


def test_there_is_one_place_that_loads() -> None:
    root = Path(distillab.__file__).parent
    elsewhere = []
    for file in sorted(root.rglob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        names = [func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls]
        wanted = file.relative_to(root).as_posix() == "pretrained.py"
        if any(name.startswith(LOADERS) for name in names) and not wanted:
            elsewhere.append(file)
    # peft reads the JSON file of an adapter's settings; the others call functions of distillab with such names: two
    # read stored batches, one reads a finished student's adapters, one builds a term from its settings
    assert [file.name for file in elsewhere] == ["doctor_batch.py", "audit.py", "weights.py", "adapters.py", "build.py"]


def test_what_loads_says_that_no_code_is_run() -> None:
    file = Path(distillab.__file__).parent / "pretrained.py"
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    loading = [call for call in calls if getattr(call.func, "attr", "") in ("from_pretrained", "from_config")]
    assert len(loading) == 5
    for call in loading:
        (trust,) = [word.value for word in call.keywords if word.arg == "trust_remote_code"]
        assert isinstance(trust, ast.Constant) and trust.value is False
