"""Pairs of models and tokenizers, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from bench.doctor.case import Cases, Place
from distillab.doctor import audit_pair
from distillab.records import CheckResult

CASES = Cases()


def _stories(place: Place) -> str:
    return str(place.material("text", "tinystories", "stories_dev.jsonl"))


@CASES.fault("torch", "pair", "pair-ids-unrelated")
def mistral_teaches_tinyllama(place: Place) -> Sequence[CheckResult]:
    """The investigation's pair: 32,000 ids on both sides, and they mean other tokens."""
    teacher, student = place.material("tokenizers", "mistral-7b-v0.1"), place.material("tokenizers", "tinyllama-1.1b")
    return audit_pair(teacher, student, _stories(place), rows=24).checks


@CASES.fault("torch", "pair", "pair-ids-unrelated", "teacher-signal-unrelated", beside=["pair-logits-too-narrow"])
def characters_teach_pieces(place: Place) -> Sequence[CheckResult]:
    """A teacher of 105 characters for a student of 512 pieces."""
    teacher, student = place.material("models", "babyllama-tok105"), place.material("models", "llama2xs-tok512")
    return audit_pair(teacher, student, _stories(place), rows=24).checks


@CASES.good("torch", "pair")
def one_tokenizer_two_models(place: Place) -> Sequence[CheckResult]:
    """A real small pair."""
    teacher, student = place.material("models", "stories260K-tok512"), place.material("models", "llama2xs-tok512")
    return audit_pair(teacher, student, _stories(place), rows=24).checks
