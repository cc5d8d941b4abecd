"""Show one answer token by token, with how probable teacher and students found each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillab.records import StudyResults, TokenView
from distillab.report.entries import Entry, of_kind
from distillab.report.safety import shortened

_MOST_TOKENS = 60


@dataclass(frozen=True)
class TokenProbs:
    """The section's plain values.

    Attributes:
        names: of the models, in the order of each token's values.
        tokens: (token, its probability by each model in per cent).
        left_out: tokens that are not shown.
    """

    prompt: str
    names: tuple[str, ...]
    tokens: tuple[tuple[str, tuple[int, ...]], ...]
    left_out: int


def token_probs(results: StudyResults, found: Sequence[Entry]) -> TokenProbs | None:
    """Return the view of a teacher, SFT and the arm with the lowest held-out loss; None where nothing was recorded."""
    view = results.token_view
    if view is None:
        return None
    names = _chosen(view, found)
    if not names:
        return None
    each = zip(*(view.probs[name] for name in names), strict=True)
    rows = [(token, tuple(round(prob * 100) for prob in probs)) for token, probs in zip(view.tokens, each, strict=True)]
    return TokenProbs(shortened(view.prompt), names, tuple(rows[:_MOST_TOKENS]), max(0, len(rows) - _MOST_TOKENS))


def _chosen(view: TokenView, found: Sequence[Entry]) -> tuple[str, ...]:
    known = [entry for entry in found if entry.name in view.probs]
    arms = [arm for arm in of_kind(known, "arm") if arm.method != "sft" and arm.held_out_nats]
    best = sorted(arms, key=lambda arm: sum(arm.held_out_nats) / len(arm.held_out_nats))[:1]
    sft = [arm for arm in of_kind(known, "arm") if arm.method == "sft"][:1]
    return tuple(entry.name for entry in (*of_kind(known, "teacher")[:1], *best, *sft))
