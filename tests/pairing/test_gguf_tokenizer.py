"""The tokenizer of a GGUF file gives the ids of the tokenizer whose vocabulary and merges were written into it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter, TokenType
from tests.gguf_files import CHATML, SPECIAL, TEXTS, byte_level, tiny_llama, write_gguf
from tokenizers import Tokenizer
from typer.testing import CliRunner

from distillab.api.pair import check_pair
from distillab.cli.main import app
from distillab.errors import TokenizerMismatch
from distillab.pairing.loading import load_tokenizer, logits_width
from distillab.pairing.probes import PROBES

TEXTS_AND_PROBES = (*TEXTS[:2], *PROBES, "\n\n1.", "a   1", " 123", "<|im_start|>user\nHi 5<|im_end|>\n")


def _written(folder: Path, *, single_digits: bool, pre: str | None) -> Path:
    tokenizer = byte_level(single_digits=single_digits)
    return write_gguf(folder / "model.gguf", tiny_llama(tokenizer.get_vocab_size()), tokenizer, pre=pre)


@pytest.mark.parametrize(("pre", "single_digits"), [("smollm", True), ("gpt-2", False)])
def test_the_ids_are_those_of_the_tokenizer_that_was_written(tmp_path: Path, pre: str, single_digits: bool) -> None:
    reference = byte_level(single_digits=single_digits)
    file = _written(tmp_path, single_digits=single_digits, pre=pre)
    loaded = load_tokenizer(str(file))
    for text in TEXTS_AND_PROBES:
        ids = loaded.tokenizer(text)["input_ids"]
        assert ids == reference.encode(text).ids
        assert loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert loaded.tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2]
    assert (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id) == (1, 2, 2)
    assert loaded.tokenizer.chat_template == CHATML
    assert any("digits first" in note for note in loaded.notes) is single_digits
    assert logits_width(str(file)) == reference.get_vocab_size()


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1"])
def test_a_sentencepiece_vocabulary_gives_the_ids_of_its_tokenizer_json(
    materials: Path, tmp_path: Path, name: str
) -> None:
    reference = Tokenizer.from_file(str(materials / "tokenizers" / name / "tokenizer.json"))
    pieces = [str(reference.id_to_token(number)) for number in range(reference.get_vocab_size())]
    kinds = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * len(pieces)]
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([-1e9 if set(piece) == {"▁"} else -float(rank) for rank, piece in enumerate(pieces)])
    writer.add_token_types(kinds[: len(pieces)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = load_tokenizer(str(tmp_path / "model.gguf")).tokenizer
    for text in (*TEXTS_AND_PROBES, "  two   spaces"):
        assert tokenizer(text)["input_ids"] == [1, *reference.encode(text, add_special_tokens=False).ids]


@pytest.mark.parametrize("pre", ["made-up", None])
def test_an_unknown_pre_tokenizer_is_refused(tmp_path: Path, pre: str | None) -> None:
    with pytest.raises(TokenizerMismatch, match=r"tokenizer\.ggml\.pre") as caught:
        load_tokenizer(str(_written(tmp_path, single_digits=True, pre=pre)))
    assert "tokenizer: …" in str(caught.value)


def test_the_command_and_python_read_a_gguf_file(tmp_path: Path) -> None:
    file = str(_written(tmp_path, single_digits=True, pre="smollm"))
    result = CliRunner().invoke(app, ["check", file, file])
    assert result.exit_code == 0 and "identical" in result.output
    assert check_pair(Path(file), file).verdict == "identical"
