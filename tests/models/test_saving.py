"""A saved student, loaded by plain transformers, generates what it was judged by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as token_models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from distillab.config.models import EvaluationConfig
from distillab.data.collation import IndexedRow
from distillab.data.examples import pair_example
from distillab.data.reading import Reader, load_reader
from distillab.evaluation.protocol import evaluate
from distillab.models.saving import save_student
from distillab.study.prepare import held_out_for

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROWS = [
    pair_example(f"k{n}", f"rows:{n}", instruction=f"What is {n} plus 4?", context="", answer=f"The sum is {n + 4}.")
    for n in range(4)
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A tokenizer whose EOS is not the token that ends a turn."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for row in ROWS for text in row.texts], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    fast.save_pretrained(folder)
    return load_reader(str(folder), revision=None, template="auto", kind="pair", max_tokens=96)


@pytest.fixture(scope="module")
def student(reader: Reader) -> LlamaForCausalLM:
    """Trained until it answers and ends its turn; its checkpoint's generation config penalises repetition."""
    torch.manual_seed(0)
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(reader.tokenizer), max_position_embeddings=96, eos_token_id=0, **shape)
    )
    model.generation_config = GenerationConfig(
        eos_token_id=0, pad_token_id=0, repetition_penalty=1.8, no_repeat_ngram_size=2, min_new_tokens=20
    )
    rows = reader.encoder.encode_all(ROWS, source="rows").rows
    batch = reader.collator()([IndexedRow(n, row) for n, row in enumerate(rows)])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(120):
        loss = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_plain_transformers_gives_the_judged_answers(reader: Reader, student: LlamaForCausalLM, tmp_path: Path) -> None:
    settings = EvaluationConfig(rows=4, generate_rows=4, max_new_tokens=24, batch_size=4)
    judged = evaluate(student, held_out_for(reader, tuple(ROWS)), settings, reader=reader, shared=None, label="it")
    assert judged.record.generation is not None
    assert judged.record.generation.stopped_by_eos == 1.0
    assert judged.record.generation.exact_match == 1.0

    own = student.generation_config
    save_student(
        tmp_path / "student",
        student,
        reader.tokenizer,
        stop_ids=reader.encoder.stop_ids,
        pad_id=reader.encoder.pad_id,
    )
    assert student.generation_config is own

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    for row, answer in zip(ROWS, judged.answers, strict=True):
        turns = [{"role": "user", "content": row.prompt}]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**asked, max_new_tokens=24)[0, asked["input_ids"].shape[1] :]
        assert tokenizer.decode(written) == f"{answer}<|im_end|>"


def test_the_generation_config_holds_stops_and_padding_alone(
    reader: Reader, student: LlamaForCausalLM, tmp_path: Path
) -> None:
    encoder = reader.encoder
    save_student(tmp_path, student, reader.tokenizer, stop_ids=encoder.stop_ids, pad_id=encoder.pad_id)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    written.pop("transformers_version")
    end_of_turn = reader.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert written == {"eos_token_id": [0, end_of_turn], "pad_token_id": 0}
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHATML
