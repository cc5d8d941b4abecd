"""Loading: the ids are those of tokenizer.json, or it is said what is wrong."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from distillab.errors import ConfigError, DataError, TokenizerMismatch
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer, logits_width
from distillab.pairing.probes import PROBES

Load = Callable[[str], LoadedTokenizer]
INDENTED = "    def f(x):\n        return x"


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "tok512", "tok105"])
def test_ids_are_those_of_the_file(real: Load, materials: Path, name: str) -> None:
    reference = Tokenizer.from_file(str(materials / "tokenizers" / name / "tokenizer.json"))
    tokenizer = real(name).tokenizer
    for text in (*PROBES, INDENTED, " x", "  y  "):
        assert (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            == reference.encode(text, add_special_tokens=False).ids
        )


def test_tinyllama_is_loaded_around_auto_tokenizer(real: Load, materials: Path) -> None:
    loaded = real("tinyllama-1.1b")
    by_auto = AutoTokenizer.from_pretrained(str(materials / "tokenizers" / "tinyllama-1.1b"))
    if by_auto(" x", add_special_tokens=False)["input_ids"] == [29871, 921]:
        pytest.skip("this transformers reads the file")
    (note,) = loaded.notes
    assert "AutoTokenizer builds LlamaTokenizer" in note
    assert "' leading space': [8236, 2913] instead of [29871, 8236, 2913]" in note
    assert loaded.tokenizer.bos_token_id == 1
    assert loaded.tokenizer.eos_token == "</s>"
    assert loaded.name == "tinyllama-1.1b"


def test_mistral_is_hit_too_without_its_config(edited, real: Load) -> None:
    folder = edited("mistral-7b-v0.1")
    (folder / "config.json").unlink()
    loaded = load_tokenizer(str(folder))
    assert loaded.notes
    assert real("mistral-7b-v0.1").notes == ()
    assert loaded.tokenizer(INDENTED)["input_ids"] == real("mistral-7b-v0.1").tokenizer(INDENTED)["input_ids"]


def test_chat_template_survives_the_other_way_of_loading(edited) -> None:
    folder = edited("tinyllama-1.1b", tokenizer_config=lambda c: c.update(chat_template="{{ messages[0].content }}"))
    loaded = load_tokenizer(str(folder))
    assert loaded.notes
    assert loaded.tokenizer.chat_template == "{{ messages[0].content }}"


def test_no_way_of_loading_agrees(edited) -> None:
    """A token that stands beside the file only, whichever class reads it."""
    folder = edited("gpt2")
    token = {"content": "quick", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    settings = {"added_tokens_decoder": {"50257": token | {"special": False}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(TokenizerMismatch, match=r"its own tokenizer\.json") as caught:
        load_tokenizer(str(folder))
    text = str(caught.value)
    assert "loaded:" in text
    assert "tokenizer.json: [" in text


def test_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_hub(*args: object, **kwargs: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("distillab.pairing.loading.cached_file", no_hub)
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "nope"), "./nope", "../nope", "runs/one/student", "~/no-such-folder-here"):
        with pytest.raises(ConfigError, match="folder does not exist"):
            load_tokenizer(path)
        with pytest.raises(ConfigError, match="folder does not exist"):
            logits_width(path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a file"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))


def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect\nand more")

    monkeypatch.setattr("distillab.pairing.loading.cached_file", unreachable)
    with pytest.raises(DataError, match="it cannot be fetched from the hub") as caught:
        load_tokenizer("nobody/nothing", revision="abc")
    assert "revision abc" in str(caught.value)
    assert "and more" not in str(caught.value)


def test_folder_without_tokenizer_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer files") as caught:
        load_tokenizer(str(tmp_path))
    assert "missing: tokenizer.json" in str(caught.value)
    assert "holds: nothing" in str(caught.value)


def test_settings_alone_are_no_tokenizer(materials: Path, tmp_path: Path) -> None:
    """AutoTokenizer makes a tokenizer of three tokens of this folder."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
        shutil.copy(materials / "tokenizers" / "tinyllama-1.1b" / name, tmp_path)
    with pytest.raises(DataError, match="no tokenizer files"):
        load_tokenizer(str(tmp_path))


def test_sentencepiece_file_alone_is_refused(materials: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.model", "tokenizer_config.json", "config.json"):
        shutil.copy(materials / "tokenizers" / "tinyllama-1.1b" / name, tmp_path)
    with pytest.raises(DataError, match="fast backend") as caught:
        load_tokenizer(str(tmp_path))
    assert "tokenizer.model" in str(caught.value)


def test_vocabulary_files_are_loaded_with_a_note(materials: Path, tmp_path: Path, real: Load) -> None:
    for name in ("vocab.json", "merges.txt", "config.json"):
        shutil.copy(materials / "tokenizers" / "gpt2" / name, tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert "could not be checked" in loaded.notes[0]
    assert loaded.tokenizer(INDENTED)["input_ids"] == real("gpt2").tokenizer(INDENTED)["input_ids"]


@pytest.mark.parametrize("content", ["not json", "[1]", "{}", '{"model": {"type": "Nope"}}'])
def test_damaged_tokenizer_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError) as caught:
        load_tokenizer(str(tmp_path))
    assert "tokenizer.json" in str(caught.value)


def test_settings_that_are_not_followed_are_noted(edited) -> None:
    folder = edited("mistral-7b-v0.1", tokenizer_config=lambda c: c.update(add_eos_token=True))
    loaded = load_tokenizer(str(folder))
    if loaded.tokenizer("hello")["input_ids"][-1] == 2:
        assert loaded.notes == ()  # a transformers that follows the setting
    else:
        assert loaded.notes[0].startswith("tokenizer_config.json has add_eos_token: true, but")
    bare = load_tokenizer(str(edited("tok512", tokenizer=lambda t: t.update(post_processor=None))))
    assert any("add_bos_token: true" in note for note in bare.notes) == (bare.tokenizer("hello")["input_ids"][0] != 1)


def test_logits_width(materials: Path, tmp_path: Path) -> None:
    assert logits_width(str(materials / "tokenizers" / "gpt2")) == 50_257
    assert logits_width(str(tmp_path)) is None
    config = tmp_path / "config.json"
    config.write_text('{"text_config": {"vocab_size": 77}, "vision_config": {"vocab_size": 5}}')
    assert logits_width(str(tmp_path)) == 77
    config.write_text("{}")
    assert logits_width(str(tmp_path)) is None
    for wrong in ('{"vocab_size": "many"}', '{"vocab_size": true}', '{"vocab_size": 0}', "{"):
        config.write_text(wrong)
        with pytest.raises(DataError):
            logits_width(str(tmp_path))


def test_verbosity_is_put_back(tmp_path: Path) -> None:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.INFO)
    try:
        with pytest.raises(DataError):
            load_tokenizer(str(tmp_path))
        assert transformers_logging.get_verbosity() == logging.INFO
    finally:
        transformers_logging.set_verbosity(before)
