"""A saved student, loaded by plain transformers, generates what it was judged by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from distillab.config.evaluation import EvaluationConfig
from distillab.data.reading import Reader
from distillab.evaluation.protocol import evaluate
from distillab.models.saving import save_student
from distillab.runs.held_out import held_out_for
from tests.models.chat_students import CHATML, chat_reader, sums, trained


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return chat_reader(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def student(reader: Reader) -> LlamaForCausalLM:
    """It answers and ends its turn; its checkpoint's generation config penalises repetition and knows EOS alone."""
    model = trained(reader, sums())
    model.generation_config = GenerationConfig(
        eos_token_id=0, pad_token_id=0, repetition_penalty=1.8, no_repeat_ngram_size=2, min_new_tokens=20
    )
    return model


def test_plain_transformers_gives_the_judged_answers(reader: Reader, student: LlamaForCausalLM, tmp_path: Path) -> None:
    rows = sums()
    settings = EvaluationConfig(rows=4, generate_rows=4, max_new_tokens=24, batch_size=4)
    judged = evaluate(student, held_out_for(reader, rows), settings, reader=reader, shared=None, label="it")
    assert judged.record.value("stopped_by_eos") == judged.record.value("exact_match") == 1.0

    own, encoder = student.generation_config, reader.encoder
    save_student(tmp_path, student, reader.tokenizer, stop_ids=encoder.stop_ids, pad_id=encoder.pad_id)
    assert student.generation_config is own

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for row, answer in zip(rows, judged.answers, strict=True):
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
