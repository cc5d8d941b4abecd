"""A teacher that reasons before it answers: what is stored is the answer, with its reasoning or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distillab.config.evaluation import EvaluationConfig
from distillab.config.reasoning import REASONING_MARKERS
from distillab.config.teacher import TeacherAnswersConfig
from distillab.data.reading import Reader
from distillab.errors import CacheMismatch, DataError
from distillab.evaluation.protocol import evaluate
from distillab.records import TeacherProvenance
from distillab.runs.held_out import held_out_for
from distillab.teachers import LocalTeacher
from distillab.teachers.reasoning import AnswerText, Written, without_reasoning
from distillab.teachers.stored.answer_identity import Prompt, answers_identity
from distillab.teachers.stored.answers import AnswerStore, drop_invalid, generate_store, read_store
from tests.models.chat_students import chat_reader, fitted, sums

SPECIAL = (
    *("<|endoftext|>", "<|return|>", "<think>", "</think>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
    *("<|im_start|>", "<|im_end|>"),
)
# as gpt-oss's
CHANNELS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + '<|return|>' }}"
    "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
TEACHER = TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0")
SUMS = [(f"What is {n} plus 4?", f"I begin at {n} and go 4 steps.", f"The sum is {n + 4}.") for n in range(4)]
KEEP = TeacherAnswersConfig(max_new_tokens=64, batch_size=4)
STRIP = KEEP.model_copy(update={"reasoning": "strip"})


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    texts = [text for sum_ in SUMS for text in sum_]
    folder = tmp_path_factory.mktemp("tokenizer")
    return chat_reader(folder, CHANNELS, special=SPECIAL, eos="<|return|>", texts=texts)


@pytest.fixture(scope="module")
def tokenizer(reader: Reader) -> PreTrainedTokenizerFast:
    return reader.tokenizer


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """It writes a thought in one channel and the answer in another."""
    texts = [f"{_asked(question)}{_in_channels(thought, answer)}<|return|>" for question, thought, answer in SUMS]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    labels = torch.where(mask.bool(), ids, -100)
    trained = fitted(len(tokenizer), {"input_ids": ids, "attention_mask": mask, "labels": labels}, 150)
    trained.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    return trained


def _asked(question: str) -> str:
    return f"<|start|>user<|message|>{question}<|end|><|start|>assistant"


def _in_channels(thought: str, answer: str) -> str:
    return f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{answer}"


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _store(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, settings: TeacherAnswersConfig
) -> AnswerStore:
    teacher = LocalTeacher(model, TEACHER)
    prompts = [Prompt(f"k{n}", tuple(_ids(tokenizer, _asked(question)))) for n, (question, *_) in enumerate(SUMS)]
    given: dict[str, Any] = {"stop_ids": [tokenizer.eos_token_id], "prompts": prompts, "settings": settings}
    identity = answers_identity(teacher.identity, tokenizer="tokens", source="prompts", **given)
    generate_store(folder, teacher=teacher, tokenizer=tokenizer, identity=identity, **given)
    return read_store(
        folder,
        prompts=prompts,
        settings=settings,
        tokenizer=tokenizer,
        fingerprint="tokens",
        weights_sha256=TEACHER.weights_sha256,
    )


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>\nTwo and two.\n</think>\n\n4.", "4."),
        (_in_channels("Two and two.", "4."), "4."),
        ("<|channel|>final<|message|>4.", "4."),
        ("Two and two.\n</think>\n\n4.", "4."),
    ],
)
def test_reasoning_in_special_tokens_is_kept_whole_or_taken_out(
    tokenizer: PreTrainedTokenizerFast, written: str, answer: str
) -> None:
    prompt, ids = _ids(tokenizer, _asked("2+2?")), _ids(tokenizer, written)
    assert AnswerText(tokenizer, STRIP).read(prompt, ids) == Written(answer, reasoned=True)
    assert AnswerText(tokenizer, KEEP).read(prompt, ids) == Written(written, reasoned=True)


def test_special_tokens_that_mark_no_reasoning_are_no_text(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt, ids = _ids(tokenizer, _asked("2+2?")), _ids(tokenizer, "4<|im_end|>.")
    for settings in (KEEP, STRIP):
        assert AnswerText(tokenizer, settings).read(prompt, ids) == Written("4.")


def test_a_thought_that_the_prompt_begins(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = _ids(tokenizer, "<|im_start|>assistant\n<think>\n")
    ids = _ids(tokenizer, "Two and two.\n</think>\n\n4.")
    assert AnswerText(tokenizer, STRIP).read(prompt, ids).answer == "4."
    assert AnswerText(tokenizer, KEEP).read(prompt, ids).answer == "<think>\nTwo and two.\n</think>\n\n4."
    # without an end there is no answer, whatever the text looks like
    endless = _ids(tokenizer, "Two and two is")
    assert AnswerText(tokenizer, STRIP).read(prompt, endless) == Written("", reasoned=True, unfinished=True)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("4.", ("4.", False, False)),
        ("  4.\n", ("  4.\n", False, False)),
        ("<think></think>4.", ("4.", True, False)),
        ("<think>a</think>4. <think>b</think> Yes.", ("4.Yes.", True, False)),
        ("<think>a", ("", True, True)),
        ("Well. <think>a", ("", True, True)),
        ("[THINK]a</think>b[/THINK]4.", ("4.", True, False)),
        ("a</think>4. <think>b</think>", ("4.", True, False)),
    ],
)
def test_reasoning_in_text(text: str, rest: tuple[str, bool, bool]) -> None:
    assert without_reasoning(text, REASONING_MARKERS) == rest


@pytest.mark.parametrize(
    ("settings", "expected"),
    [(STRIP, [answer for *_, answer in SUMS]), (KEEP, [_in_channels(thought, answer) for _, thought, answer in SUMS])],
)
def test_the_stored_answer_is_the_answer(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: TeacherAnswersConfig,
    expected: list[str],
    tmp_path: Path,
) -> None:
    store = _store(tmp_path, model, tokenizer, settings)
    assert [answer.answer for answer in store.answers] == expected
    kept, counts = drop_invalid(store.answers, path="x", settings=settings, prompt_tokens=0)
    assert [text for texts in kept.values() for text in texts] == expected
    assert (counts.with_reasoning, counts.reasoning, counts.dropped_unfinished_reasoning) == (4, settings.reasoning, 0)


def test_what_becomes_of_reasoning_is_part_of_the_identity(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    _store(tmp_path, model, tokenizer, KEEP)
    with pytest.raises(CacheMismatch, match=r"decoding\.reasoning: the cache 'keep', this run 'strip'"):
        _store(tmp_path, model, tokenizer, STRIP)
    with pytest.raises(CacheMismatch, match=r"decoding\.reasoning_markers"):
        _store(tmp_path, model, tokenizer, KEEP.model_copy(update={"reasoning_markers": (("<a>", "</a>"),)}))
    assert _store(tmp_path, model, tokenizer, KEEP).answers  # the same settings read it


def test_answers_that_never_leave_their_reasoning_are_dropped_and_counted(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    short = STRIP.model_copy(update={"max_new_tokens": 8, "keep_cut_off": True})
    store = _store(tmp_path, model, tokenizer, short)
    with pytest.raises(DataError, match="reasoning without an end 4"):
        drop_invalid(store.answers, path="x", settings=short, prompt_tokens=0)


@pytest.mark.parametrize("sample", [False, True])
def test_a_teachers_generation_config_changes_no_answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sample: bool, tmp_path: Path
) -> None:
    settings = KEEP.model_copy(update={"sample": sample, "temperature": 3.0 if sample else 1.0})
    plain = _store(tmp_path / "plain", model, tokenizer, settings)
    own = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        repetition_penalty=1.9,
        no_repeat_ngram_size=1,
        min_new_tokens=60,
        min_p=0.9,
        typical_p=0.1,
    )
    try:
        leaking = _store(tmp_path / "leaking", model, tokenizer, settings)
    finally:
        model.generation_config = own
    assert leaking.answers == plain.answers


@pytest.mark.parametrize("markers", [[], [["<think>", "<think>"]], [["", "</think>"]], [["<think>"]]])
def test_markers_come_in_pairs(markers: list[list[str]]) -> None:
    with pytest.raises(ValidationError):
        TeacherAnswersConfig(reasoning_markers=markers)


def test_a_model_that_reasons_is_judged_by_its_answers(reader: Reader, model: LlamaForCausalLM) -> None:
    settings = EvaluationConfig(rows=4, generate_rows=4, max_new_tokens=64, reasoning="strip")
    judged = evaluate(model, held_out_for(reader, sums()), settings, reader=reader, shared=None, label="it")
    assert judged.answers == tuple(answer for *_, answer in SUMS)
    match = judged.record.metric("exact_match")
    assert match is not None and match.value == 1.0 and "without their reasoning" in match.meaning
    # the reasoning of a reference is no part of what is compared either
    reasoned = [row.with_answer(f"<think>\nHm.\n</think>\n\n{row.answer}") for row in sums()]
    judged = evaluate(model, held_out_for(reader, tuple(reasoned)), settings, reader=reader, shared=None, label="it")
    assert judged.record.value("exact_match") == 1.0


def test_markers_without_effect_are_refused() -> None:
    with pytest.raises(ValidationError, match="no effect without reasoning: strip"):
        EvaluationConfig(reasoning_markers=[["<a>", "</a>"]])
