"""Bits per byte is that of lm-evaluation-harness: the scored text alone, without EOS and without an unscored token."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from distillab.data.encoding import EncodedRow, Encoder
from distillab.data.examples import Example, Message, conversation_example, pair_example, text_example
from distillab.data.reading import Reader, load_reader
from distillab.data.templates import resolve_template
from distillab.evaluation.likelihood import RowScores, score_rows
from distillab.evaluation.summary import bits_per_byte, summarise

# made by `python -m bench.lm_eval_bits --record`
_HARNESS = json.loads(Path(__file__).with_name("lm_eval_bits.json").read_text(encoding="utf-8"))


def _reader(path: Path, kind: str = "text", template: str = "plain") -> Reader:
    return load_reader(str(path), revision=None, template=template, kind=kind, max_tokens=512)  # type: ignore[arg-type]


def _texts(texts: list[str]) -> list[Example]:
    return [text_example(str(n), "f", text=text, prompt_share=0.25) for n, text in enumerate(texts)]


def _scored(model: PreTrainedModel, reader: Reader, examples: list[Example]) -> tuple[RowScores, int]:
    rows = reader.encoder.encode_all(examples, source="x").rows
    scores = score_rows(model, rows, collator=reader.collator(), batch_size=3, stop_ids=reader.encoder.stop_ids)
    return scores, sum(map(reader.encoder.scored_bytes, examples))


def test_the_figure_of_the_harness_on_the_same_text(materials: Path) -> None:
    path = materials / "models" / _HARNESS["model"]
    lines = (materials / "text" / "tinystories" / "stories_dev.jsonl").read_text(encoding="utf-8").splitlines()
    examples = _texts([json.loads(line)["text"] for line in lines[: len(_HARNESS["rows"])]])
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    scores, size = _scored(model, _reader(path), examples)
    expected = [row["nats"] for row in _HARNESS["rows"]]
    assert (scores.nats - scores.eos_nats).tolist() == pytest.approx(expected, rel=1e-6)
    assert size == sum(row["bytes"] for row in _HARNESS["rows"])
    assert bits_per_byte(scores, scored_bytes=size) == pytest.approx(sum(expected) / math.log(2) / size, rel=1e-6)


def test_without_a_begin_token_the_first_token_counts_neither_as_nats_nor_as_bytes(materials: Path) -> None:
    """Against a float64 loop; the second text begins with a character that byte-level BPE cuts into several tokens."""
    reader = _reader(materials / "tokenizers" / "gpt2")
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=len(reader.tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    model = GPT2LMHeadModel(shape).eval()
    examples = _texts(["Once upon a time there was a fox.", "鬱 is hard to write.", " Two words"])
    scores, size = _scored(model, reader, examples)
    bytes_of = {letter: byte for byte, letter in _byte_letters().items()}
    nats = ends = expected_bytes = 0.0
    for row in reader.encoder.encode_all(examples, source="x").rows:
        ids = row.input_ids.astype(np.int64)
        with torch.no_grad():
            logp = model(input_ids=torch.tensor(ids[None])).logits[0].double().log_softmax(-1)
        for t in range(1, len(ids)):
            if ids[t] == reader.encoder.eos_id:
                ends -= float(logp[t - 1, ids[t]])
                continue
            nats -= float(logp[t - 1, ids[t]])
            piece = reader.tokenizer.convert_ids_to_tokens(int(ids[t]))
            expected_bytes += len([bytes_of[letter] for letter in piece])
    summary = summarise(scores, scored_bytes=size)
    assert size == summary.scored_bytes == expected_bytes
    assert size < sum(len(example.answers[0].encode()) for example in examples)
    assert summary.value("bits_per_byte") == pytest.approx(nats / math.log(2) / expected_bytes, rel=1e-6)
    # a token's mean has EOS in it, as before; what an EOS costs stands apart
    assert summary.nats_per_token == pytest.approx((nats + ends) / summary.tokens, rel=1e-6)
    assert summary.value("eos_nats") == pytest.approx(ends / 3, rel=1e-6)


def _byte_letters() -> dict[int, str]:
    """GPT-2's own table (Radford et al. 2019): printable bytes are themselves, the others follow from U+0100 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{byte: chr(byte) for byte in shown}, **{byte: chr(256 + n) for n, byte in enumerate(hidden)}}


def test_bytes_of_answers_without_what_the_template_writes_to_end_them(materials: Path) -> None:
    tokenizer = _reader(materials / "tokenizers" / "gpt2").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    encoder = Encoder(tokenizer, resolve_template("chat", tokenizer, "messages"), 64)
    turns = (
        Message("user", "Hi"),
        Message("assistant", "Grüße!"),
        Message("user", "And?"),
        # the data spells the token that ends a turn: text, and scored as such
        Message("assistant", "It is <|im_end|>"),
    )
    talk = conversation_example("k", "f", turns)
    assert encoder.scored_bytes(talk) == len("Grüße!".encode()) + len("It is <|im_end|>")
    row = encoder.encode(talk)
    assert isinstance(row, EncodedRow)
    assert int(np.isin(row.input_ids[row.answer_mask], encoder.stop_ids).sum()) == 2
    pairs = Encoder(tokenizer, resolve_template("plain", tokenizer, "pair"), 64)
    example = pair_example("k", "f", instruction="2+2?", context="", answer="vier — 4")
    assert pairs.scored_bytes(example) == len("vier — 4".encode())


def test_the_space_that_a_tokenizer_puts_before_a_text_is_no_byte_of_it(materials: Path) -> None:
    reader = _reader(materials / "tokenizers" / "tok512")
    bare = reader.tokenizer
    bare.backend_tokenizer.post_processor = None
    encoder = Encoder(bare, reader.encoder.template, 64)
    for text in ("Once upon a time", "x y"):
        [example] = _texts([text])
        first = bare.convert_ids_to_tokens(int(encoder.encode(example).input_ids[0]))  # type: ignore[union-attr]
        assert encoder.scored_bytes(example) == len(text) - len(first.removeprefix("▁"))
