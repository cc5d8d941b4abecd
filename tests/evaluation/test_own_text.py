"""Fidelity on the student's own text, against a direct computation with transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillab.config.evaluation import EvaluationConfig
from distillab.data.reading import load_reader
from distillab.evaluation.likelihood import SharedTeacher
from distillab.evaluation.own_text import CACHE_LACKS_IT, own_rows, own_text_metrics
from distillab.evaluation.summary import NO_SHARED_TEACHER
from distillab.models.generation import Decoding, generate_batches
from distillab.teachers import LocalTeacher
from tests.evaluation.test_evaluation import PROVENANCE, _model

NAMES = ("own_kl_from_teacher", "own_top1_agreement", "own_acceptance")


def test_the_figures_are_those_of_a_direct_computation(materials: Path) -> None:
    path = str(materials / "models" / "stories260K-tok512")
    reader = load_reader(path, revision=None, template="auto", kind="text", max_tokens=96)
    student, teacher = _model(materials, "llama2xs-tok512"), _model(materials, "stories260K-tok512")
    prompts = [reader.tokenizer(text)["input_ids"] for text in ("Once", "Lily and Tom went to the park", "The dog")]
    (plain,) = generate_batches(student, prompts, decoding=Decoding(24), stop_ids=[2], batch_size=3)
    ends = [2, plain[0].ids[9]]  # so that one answer at least ends by itself
    (answers,) = generate_batches(student, prompts, decoding=Decoding(24), stop_ids=ends, batch_size=3)
    written = [answer.scored_ids for answer in answers]
    assert len({len(ids) for ids in written}) > 1 and any(answer.stopped for answer in answers)

    sums = torch.zeros(4, dtype=torch.float64)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer.ids]])
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0].double().softmax(-1) for model in (teacher, student))
        # the token that ends an answer is one that the student chose
        for at in range(len(prompt) - 1, len(prompt) + len(answer.ids) - (not answer.stopped)):
            kl = sum(float(a * (a / b).log()) for a, b in zip(p[at], q[at], strict=True))
            accepted = float(torch.minimum(p[at], q[at]).sum())
            sums += torch.tensor([1, kl, float(p[at].argmax() == q[at].argmax()), accepted])

    shared = SharedTeacher(LocalTeacher(teacher, PROVENANCE), 512)
    settings = EvaluationConfig(batch_size=2)
    found, rows = own_text_metrics(student, prompts, written, settings, reader=reader, shared=shared)
    assert sum(row["own_kl"] for row in rows) == pytest.approx(float(sums[1]), rel=1e-4)
    assert [row["own_tokens"] for row in rows] == [len(ids) for ids in written]
    assert [metric.name for metric in found] == list(NAMES)
    assert [metric.value for metric in found] == pytest.approx((sums[1:] / sums[0]).tolist(), rel=1e-4)
    assert {(metric.n, metric.sample, metric.family) for metric in found} == {(3, "generations", "fidelity")}

    for teacherless, reason in (
        (None, NO_SHARED_TEACHER),
        (SharedTeacher(shared.teacher, 512, reads_any_text=False), CACHE_LACKS_IT),
    ):
        found, rows = own_text_metrics(student, prompts, written, settings, reader=reader, shared=teacherless)
        assert rows == ()
        assert [(metric.value, metric.missing) for metric in found] == [(None, reason)] * 3
    assert own_text_metrics(student, [], [], settings, reader=reader, shared=shared) == ((), ())


def test_an_answer_ends_before_what_the_teacher_cannot_read() -> None:
    prompts, written = [(1, 2), (1,), (9, 1), (1,)], [(3, 4, 9, 5), (9,), (3,), (7,)]
    rows = own_rows(prompts, written, teacher_ids=9)
    assert [row.input_ids.tolist() for row in rows] == [[1, 2, 3, 4], [1, 7]]
    assert [row.answer_mask.tolist() for row in rows] == [[False, False, True, True], [False, True]]
