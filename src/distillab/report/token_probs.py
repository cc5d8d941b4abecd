"""Show one answer token by token, with how probable teacher and students found each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillab.records import StudyResults, TokenView
from distillab.report.entries import Entry, of_kind
from distillab.report.safety import shortened

_MOST_TOKENS = 60


@dataclass(frozen=True)
class Model:
    """A model of the view: how it is named there, who it is, the class of its colour."""

    name: str
    meaning: str
    colour: str


@dataclass(frozen=True)
class TokenProbs:
    """The section's plain values.

    Attributes:
        models: in the order of each token's values.
        tokens: (token, its probability by each model in per cent).
        left_out: tokens that are not shown.
    """

    prompt: str
    models: tuple[Model, ...]
    tokens: tuple[tuple[str, tuple[int, ...]], ...]
    left_out: int


def token_probs(results: StudyResults, found: Sequence[Entry]) -> TokenProbs | None:
    """Return the view of a teacher, the arm with the lowest held-out loss and SFT; None where nothing was recorded."""
    view = results.token_view
    if view is None:
        return None
    chosen = _chosen(view, found)
    if not chosen:
        return None
    each = zip(*(view.probs[entry.name] for entry, _, _ in chosen), strict=True)
    rows = [(token, tuple(round(prob * 100) for prob in probs)) for token, probs in zip(view.tokens, each, strict=True)]
    models = tuple(Model(name, meaning, entry.colour) for entry, name, meaning in chosen)
    return TokenProbs(shortened(view.prompt), models, tuple(rows[:_MOST_TOKENS]), max(0, len(rows) - _MOST_TOKENS))


def _chosen(view: TokenView, found: Sequence[Entry]) -> list[tuple[Entry, str, str]]:
    """Return the models that are shown: (entry, name in the view, what it is)."""
    known = [entry for entry in found if entry.name in view.probs]
    arms = [arm for arm in of_kind(known, "arm") if arm.held_out_nats]
    best = sorted(arms, key=lambda arm: sum(arm.held_out_nats) / len(arm.held_out_nats))
    students = [(arm, arm.name, "the best student") for arm in best if arm.name != "sft"][:1]
    students += [(arm, arm.name, "the student of plain fine-tuning") for arm in arms if arm.name == "sft"]
    teachers = [(entry, "teacher", entry.name) for entry in of_kind(known, "teacher")][:1]
    return [*teachers, *students]
