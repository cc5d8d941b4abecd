"""Tokenised rows to judge by that stand in the rows to learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from distillab.doctor.batch.rows import Ints
from distillab.doctor.batch.tokens import TokenFacts, text_range
from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page

_LEAK = 0.5
_FEWEST_TOKENS = 2


@check("train and held-out rows")
def check_tokens_overlap(
    train: Iterable[tuple[Ints, Ints | None]], held_out: Iterable[tuple[Ints, Ints | None]], facts: TokenFacts
) -> Checked:
    """Compare rows by their tokens without padding; linear in both.

    Args:
        train, held_out: (ids, attention mask or None) of every row.
    """
    digests = [_digest(ids, attention, facts) for ids, attention in train]
    known = {digest: place for place, digest in reversed(list(enumerate(digests))) if digest is not None}
    rows = hit = judged = 0
    first: tuple[int, int, str] | None = None
    for place, (ids, attention) in enumerate(held_out):
        rows += 1
        digest = _digest(ids, attention, facts)
        judged += digest is not None
        if digest is not None and digest in known:
            hit += 1
            first = first or (place, known[digest], facts.text(ids[slice(*text_range(ids, attention, facts))][:60]))
    yield Scope(f"{len(digests):,} training rows, {rows:,} held-out rows")
    if not judged:
        raise Skipped("no held-out row has two tokens")
    if first is None:
        return
    certain = hit >= _LEAK * judged
    held, own, text = first
    yield from_page(
        "train-held-out-overlap",
        f"{hit:,} of {judged:,} ({hit / judged:.1%}) held-out rows have the tokens of a training row",
        case="all" if certain else "some",
        severity="error" if certain else "warning",
        example=(f"held-out row {held}, training row {own}: {text!r}",),
    )


def _digest(ids: Ints, attention: Ints | None, facts: TokenFacts) -> bytes | None:
    start, stop = text_range(ids, attention, facts)
    if stop - start < _FEWEST_TOKENS:
        return None
    return hashlib.blake2b(ids[start:stop].tobytes(), digest_size=16).digest()
