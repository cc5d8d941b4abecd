"""This toolkit's own batches, divergences and runs: good ones, and what its settings can still get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.doctor.case import Case, Cases, Place
from bench.doctor.rows import stories, sums
from distillab.config import RunRecipe
from distillab.data.collation import TokenDataset
from distillab.data.examples import Example
from distillab.data.reading import load_reader
from distillab.divergences import forward_kl, jensen_shannon, reverse_kl
from distillab.doctor import audit_batch, audit_loss, audit_run
from distillab.records import CheckResult
from distillab.runs.run import execute

CASES = Cases()
_IGNORED = -100


def _batches(place: Place, name: str, *, packing: bool = False, side: Any = "right") -> Sequence[CheckResult]:
    reader = load_reader(
        str(place.material("tokenizers", name)), revision=None, template="auto", kind="pair", max_tokens=512
    )
    examples = [
        Example(key=str(number), kind="pair", prompt=prompt, answer=answer, origin=f"row {number}")
        for number, (prompt, answer) in enumerate(sums(place, 32))
    ]
    rows = TokenDataset(reader.encoder.encode_all(examples, source="bench"))
    collate = reader.collator(side, packing=packing)
    batch = collate([rows[number] for number in range(len(rows))])
    keys = ("input_ids", "labels", "attention_mask", "position_ids")
    if packing:  # the padding is known by position ids and labels alone, as the model is given it
        keys = ("input_ids", "labels", "position_ids")
    return audit_batch({key: batch[key] for key in keys}, reader.tokenizer, learns="answers", shifts="model")


@CASES.good("ours", "batch")
def our_rows_for_tinyllama(place: Place) -> Sequence[CheckResult]:
    """Encoder and collator, padded right."""
    return _batches(place, "tinyllama-1.1b")


@CASES.good("ours", "batch")
def our_rows_for_gpt2_padded_left(place: Place) -> Sequence[CheckResult]:
    """Encoder and collator, padded left, pad = eos."""
    return _batches(place, "gpt2", side="left")


@CASES.good("ours", "batch")
def our_rows_packed(place: Place) -> Sequence[CheckResult]:
    """Several rows in one sequence."""
    return _batches(place, "mistral-7b-v0.1", packing=True)


def _divergence(divergence: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def function(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        keep = labels[:, 1:] != _IGNORED
        student = student_logits[:, :-1][keep].log_softmax(-1)
        teacher = teacher_logits[:, :-1][keep].log_softmax(-1)
        return divergence(student_logp=student, teacher_logp=teacher).sum() / keep.sum().clamp(min=1)

    return function


def _audited(divergence: Callable[..., Tensor]) -> Callable[[Place], Sequence[CheckResult]]:
    return lambda place: (audit_loss(_divergence(divergence), given="sequences"),)


for _name, _function in (
    ("our-forward-kl", forward_kl),
    ("our-reverse-kl", reverse_kl),
    ("our-jensen-shannon", lambda **sides: jensen_shannon(**sides, teacher_weight=0.3)),
):
    CASES.append(Case(_name, "ours", "loss", frozenset(), _audited(_function), "nothing"))


def _recipe(place: Place, *, training: dict[str, Any], **changes: Any) -> RunRecipe:
    train = place.scratch / "train.jsonl"
    lines = [json.dumps({"text": text[:160]}) for text in stories(place, 400)]
    train.write_text("\n".join(lines), encoding="utf-8")
    shape = place.material("models", "stories260K-tok512")
    values: dict[str, Any] = {
        "student": {"path": str(shape), "init": "random"},
        "teacher": {"path": str(shape)},
        "data": {"train": {"path": str(train)}, "held_out": {"fraction": 0.1}, "max_tokens": 160},
        "method": "sft",
        "training": {
            "steps": 60,
            "batch_size": 4,
            "learning_rate": 4e-3,
            "device": "cpu",
            "evaluate_every": 10,
            **training,
        },
        "evaluation": {"rows": 24, "curve_rows": 16, "generate_rows": 8, "max_new_tokens": 24},
        "output": str(place.scratch / "run"),
    }
    return RunRecipe(**{**values, **changes})


def _ran(recipe: RunRecipe) -> Sequence[CheckResult]:
    execute(recipe)
    return audit_run(Path(recipe.output)).checks


@CASES.good("ours", "run")
def our_run_by_forward_kl(place: Place) -> Sequence[CheckResult]:
    """From random weights, by the real small teacher."""
    return _ran(_recipe(place, training={}, method="logits"))


@CASES.good("ours", "run")
def our_run_in_microbatches(place: Place) -> Sequence[CheckResult]:
    """SFT, a step in microbatches."""
    return _ran(_recipe(place, training={"microbatch_size": 2}))


@CASES.fault("ours", "run", "learning-rate-too-low", "nothing-learned")
def our_run_with_a_tiny_rate(place: Place) -> Sequence[CheckResult]:
    """The default of a large model, for a student with random weights."""
    return _ran(_recipe(place, training={"learning_rate": 1e-6}))


@CASES.fault("ours", "run", "term-without-effect")
def our_run_with_a_term_of_no_weight(place: Place) -> Sequence[CheckResult]:
    """The teacher's term has a weight that was meant for a sum over the vocabulary."""
    terms = [{"kind": "cross_entropy"}, {"kind": "token_divergence", "weight": 1e-5}]
    return _ran(_recipe(place, training={"gradient_shares_every": 10}, method="logits", terms=terms))


@CASES.fault("ours", "run", "schedule-only-warms-up", "learning-rate-too-low")
def our_run_that_only_warms_up(place: Place) -> Sequence[CheckResult]:
    """As many steps of warm-up as steps."""
    return _ran(_recipe(place, training={"warmup_steps": 60}))
