"""Figures of the evaluation against naive ones, on a real small model and real text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from distillab.config.data import DataConfig, HeldOutConfig, SourceConfig
from distillab.data.encoding import EncodedRow
from distillab.data.reading import Reader, load_reader
from distillab.data.splits import load_examples
from distillab.divergences import total_variation
from distillab.evaluation.likelihood import SharedTeacher, score_rows, score_teacher
from distillab.evaluation.references import reference_lines
from distillab.evaluation.summary import summarise
from distillab.evaluation.text_match import judge
from distillab.evaluation.values import captured, normalised
from distillab.models.chunking import SUB_CHUNK_BYTES
from distillab.models.generation import Decoding, continuation_text, generate_batches
from distillab.records import TeacherProvenance
from distillab.teachers import LocalTeacher

STOPS = (2,)  # of the tokenizer of these models
PROVENANCE = TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0")


@pytest.fixture(scope="module")
def reader(materials: Path) -> Reader:
    path = str(materials / "models" / "stories260K-tok512")
    return load_reader(path, revision=None, template="auto", kind="text", max_tokens=96)


@pytest.fixture(scope="module")
def rows(materials: Path, reader: Reader) -> list[EncodedRow]:
    source = SourceConfig(path=str(materials / "text" / "tinystories" / "stories_dev.jsonl"), limit=20)
    splits = load_examples(DataConfig(train=source, held_out=HeldOutConfig(fraction=0.5)))
    return reader.encoder.encode_all(splits.train[:7], source="x").rows


def _model(materials: Path, name: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(materials / "models" / name, dtype=torch.float32).eval()


def test_figures_equal_a_naive_loop(materials: Path, reader: Reader, rows: list[EncodedRow]) -> None:
    student, source = _model(materials, "llama2xs-tok512"), _model(materials, "stories260K-tok512")
    shared = SharedTeacher(LocalTeacher(source, PROVENANCE), 512)
    scores = score_rows(student, rows, collator=reader.collator(), batch_size=3, stop_ids=STOPS, shared=shared)
    assert scores.kl is not None and scores.agree is not None and scores.acceptance is not None
    for index, row in enumerate(rows):
        ids = torch.tensor(row.input_ids[None].astype(np.int64))
        with torch.no_grad():
            q = student(input_ids=ids).logits[0].double().log_softmax(-1)
            p = source(input_ids=ids).logits[0].double().log_softmax(-1)
        at = [t - 1 for t in range(1, len(row)) if row.answer_mask[t]]
        gold = [int(row.input_ids[t + 1]) for t in at]
        assert float(scores.nats[index]) == pytest.approx(
            -sum(q[t, g].item() for t, g in zip(at, gold, strict=True)), rel=1e-4
        )
        assert int(scores.tokens[index]) == len(at)
        assert int(scores.correct[index]) == sum(int(q[t].argmax()) == g for t, g in zip(at, gold, strict=True))
        assert float(scores.kl[index]) == pytest.approx((p[at].exp() * (p[at] - q[at])).sum().item(), rel=1e-3)
        assert int(scores.agree[index]) == int((p[at].argmax(-1) == q[at].argmax(-1)).sum())
        accepted = sum(min(a, b) for t in at for a, b in zip(p[t].exp().tolist(), q[t].exp().tolist(), strict=True))
        assert float(scores.acceptance[index]) == pytest.approx(accepted, rel=1e-4)
        variation = total_variation(student_logp=q[at], teacher_logp=p[at])
        assert float(scores.acceptance[index]) == pytest.approx(len(at) - float(variation.sum()), rel=1e-4)


def test_figures_from_a_source_are_those_of_its_weights(
    materials: Path, reader: Reader, rows: list[EncodedRow]
) -> None:
    model = _model(materials, "stories260K-tok512")
    wanted = score_rows(model, rows, collator=reader.collator(), batch_size=3, stop_ids=STOPS)
    source = LocalTeacher(model, PROVENANCE)
    found = score_teacher(source, rows, width=512, collator=reader.collator(), batch_size=3, stop_ids=STOPS)
    for name in ("nats", "eos_nats", "eos_tokens", "tokens", "correct"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), atol=1e-4, rtol=1e-6)
    assert found.calibration.confidence == pytest.approx(wanted.calibration.confidence, abs=1e-6)
    assert found.calibration.expected_error == pytest.approx(wanted.calibration.expected_error, abs=1e-6)
    assert found.keys == wanted.keys and found.kl is None


class _Largest(TorchDispatchMode):
    """Counts the operations that give a new tensor of so many numbers or more."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.found = numbers, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not out._is_view() and out.numel() >= self.numbers:
            self.found += 1
        return out


def test_no_figure_has_a_tensor_of_a_tiles_size(
    materials: Path, reader: Reader, rows: list[EncodedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tokens × vocabulary there are the two chunks that the heads write into, whatever is computed of them."""
    model = _model(materials, "stories260K-tok512")
    shared = SharedTeacher(LocalTeacher(model, PROVENANCE), 512)
    monkeypatch.setitem(SUB_CHUNK_BYTES, "cpu", 4 * 512 * 16)
    scored = sum(int(row.answer_mask[1:].sum()) for row in rows)

    def counted(pieces_of: int) -> int:
        with _Largest(512 * pieces_of) as mode:
            score_rows(model, rows, collator=reader.collator(), batch_size=99, stop_ids=STOPS, shared=shared)
        return mode.found

    # each head makes its chunk and writes into it
    assert counted(scored) <= 4 < counted(16)


def test_batch_size_order_and_padding_side_change_nothing(
    materials: Path, reader: Reader, rows: list[EncodedRow]
) -> None:
    model = _model(materials, "stories260K-tok512")
    one = score_rows(model, rows, collator=reader.collator(), batch_size=1, stop_ids=STOPS)
    many = score_rows(model, rows, collator=reader.collator("left"), batch_size=7, stop_ids=STOPS)
    back = score_rows(model, rows[::-1], collator=reader.collator(), batch_size=4, stop_ids=STOPS)
    torch.testing.assert_close(one.nats, many.nats, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(one.nats, back.nats.flip(0), atol=1e-3, rtol=1e-5)


def test_a_model_has_no_divergence_from_itself(materials: Path, reader: Reader, rows: list[EncodedRow]) -> None:
    model = _model(materials, "stories260K-tok512")
    shared = SharedTeacher(LocalTeacher(_model(materials, "stories260K-tok512"), PROVENANCE), 512)
    summary = summarise(
        score_rows(model, rows, collator=reader.collator(), batch_size=4, stop_ids=STOPS, shared=shared),
        scored_bytes=100,
    )
    assert summary.value("kl_from_teacher") == pytest.approx(0.0, abs=1e-5)
    assert summary.value("top1_agreement") == 1.0
    assert summary.value("acceptance") == pytest.approx(1.0, abs=1e-5)


def test_evaluation_changes_with_the_weights(materials: Path, reader: Reader, rows: list[EncodedRow]) -> None:
    """A peer's evaluation loss stays 0, another's loader is never used."""
    model = _model(materials, "stories260K-tok512")
    before = score_rows(model, rows, collator=reader.collator(), batch_size=4, stop_ids=STOPS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    after = score_rows(model, rows, collator=reader.collator(), batch_size=4, stop_ids=STOPS)
    assert float((after.nats - before.nats).abs().min()) > 0.1


def test_a_model_in_training_is_left_in_training(materials: Path, reader: Reader, rows: list[EncodedRow]) -> None:
    model = _model(materials, "stories260K-tok512").train()
    score_rows(model, rows[:2], collator=reader.collator(), batch_size=2, stop_ids=STOPS)
    assert model.training


def _row(ids: list[int], mask: list[bool]) -> EncodedRow:
    return EncodedRow("k", np.array(ids, dtype=np.int32), np.array(mask), 1)


def test_reference_lines_by_hand() -> None:
    # training answers hold token 1 twice and token 2 once; vocabulary 4: P(1) = 3/7, P(2) = 2/7, P(3) = 1/7
    train = [_row([0, 1, 1, 2], [False, True, True, True])]
    held_out = [_row([0, 1, 3], [False, True, True])]
    lines = reference_lines(train, held_out, vocabulary=4)
    assert lines.uniform_nats == pytest.approx(math.log(4))
    assert lines.unigram_nats == pytest.approx(-(math.log(3 / 7) + math.log(1 / 7)) / 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The Cat. ", "cat"),
        ("3.5", "3.5"),
        ("-4", "-4"),
        ("$-4!", "-4"),
        ("well-4", "well-4"),
        ("(4)", "4"),
        ("A  an the", ""),
        ("don't!", "don't"),
        ("$1,000.", "1,000"),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_the_last_match_is_the_captured_value() -> None:
    assert captured("#### 3 ... #### 4", r"#### (\d+)") == "4"
    assert captured("nothing", r"#### (\d+)") is None


def test_the_metrics_of_answers_by_hand() -> None:
    metrics = judge(
        ["It is 4.", "it is 5", "no"],
        ["It is 4.", "It is 5.", "It is 6."],
        stopped=[True, True, False],
        lengths=[3, 3, 9],
        value_pattern=r"(\d+)\.?$",
    ).metrics
    found = {metric.name: metric.value for metric in metrics}
    assert {metric.n for metric in metrics} == {3} and found["mean_tokens"] == 5.0
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["normalised_match"] == pytest.approx(2 / 3)
    assert found["value_match"] == pytest.approx(2 / 3)
    assert found["stopped_by_eos"] == pytest.approx(2 / 3)
    assert found["rouge_l"] == pytest.approx(2 / 3)


def test_a_wrong_reference_value_is_a_miss_even_if_the_answer_has_none_either() -> None:
    metrics = judge(["x"], ["y"], stopped=[True], lengths=[1], value_pattern=r"(\d+)").metrics
    assert metrics[0].name == "value_match" and metrics[0].value == 0.0


def test_left_padding_does_not_change_greedy_answers(materials: Path, reader: Reader) -> None:
    model = _model(materials, "stories260K-tok512")
    prompts = [reader.tokenizer(text)["input_ids"] for text in ("Once", "Lily and Tom went to the park", "The dog")]
    settings = {"decoding": Decoding(20), "stop_ids": reader.encoder.stop_ids}
    together = next(generate_batches(model, prompts, batch_size=3, **settings))
    alone = [next(generate_batches(model, [prompt], batch_size=1, **settings))[0] for prompt in prompts]
    assert together == alone


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it(materials: Path, reader: Reader) -> None:
    model = _model(materials, "stories260K-tok512")
    prompt = reader.tokenizer("Once upon a time")["input_ids"]
    plain = next(generate_batches(model, [prompt], decoding=Decoding(12), stop_ids=[2], batch_size=1))[0]
    assert not plain.stopped and len(plain.ids) == 12
    stop = plain.ids[5]
    cut = next(generate_batches(model, [prompt], decoding=Decoding(12), stop_ids=[stop], batch_size=1))[0]
    assert cut.stopped and cut.ids == plain.ids[: plain.ids.index(stop)]


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "tok512"])
def test_a_continuation_keeps_its_leading_space(materials: Path, name: str) -> None:
    reader = load_reader(
        str(materials / "tokenizers" / name), revision=None, template="auto", kind="text", max_tokens=64
    )
    tokenizer = reader.tokenizer
    whole = tokenizer("The quick brown fox", add_special_tokens=False)["input_ids"]
    for cut in range(1, len(whole)):
        before = tokenizer.decode(whole[:cut])
        assert before + continuation_text(tokenizer, whole[:cut], whole[cut:]) == tokenizer.decode(whole)
