"""What follows from the quantity that a loss is divided by."""

from __future__ import annotations

from distillab.doctor.loss.formulas import Fit
from distillab.doctor.loss.reduction import LEFT_PADDING, MORE_PADDING, MORE_PROMPT, UNUSED_TOKENS, Reduction
from distillab.doctor.loss.subject import Subject
from distillab.doctor.page import from_page
from distillab.records.findings import Finding

_NATS = ("forward_kl", "reverse_kl", "jensen_shannon", "skewed_forward_kl", "skewed_reverse_kl", "mixed_kl")


def divisor_findings(subject: Subject, reduction: Reduction | None, part: str, fit: Fit | None) -> list[Finding]:
    """Return findings on a divisor that contains the vocabulary or unscored positions, or no length at all.

    Args:
        part: what the reduction is of, in words.
        fit: the formula of that part; None for the labels' cross-entropy.
    """
    if reduction is None:
        return []
    divisor = reduction.divisor
    counts_padding = bool((subject.footprint.student & (subject.batch.attention == 0)).any())
    if divisor is None:
        return [] if counts_padding else _depends_on_padding(reduction, part)
    findings = []
    evidence = (f"{part}: {divisor.words}",)
    if divisor.vocabulary:
        nats = fit is None or (fit.holds and fit.formula.family in _NATS)
        squared = fit is not None and fit.holds and fit.formula.family.startswith("squared")
        findings.append(
            from_page(
                "loss-divided-by-vocabulary",
                *evidence,
                f"{_change(reduction, UNUSED_TOKENS)} with 9 more unused tokens",
                severity="error" if nats else "note" if squared else "warning",
            )
        )
    counts_it_all = divisor.kind == "attended" and _counts_all_tokens(subject)
    if divisor.kind in ("positions", "attended") and subject.takes_mask and not counts_padding and not counts_it_all:
        findings.append(_unscored(subject, reduction, evidence, divisor.kind))
    if divisor.kind == "batch" and not divisor.vocabulary:
        findings.append(
            from_page(
                "loss-grows-with-length",
                *evidence,
                "kl_div(reduction='batchmean') does this for logits of shape (B, L, V)",
            )
        )
    return findings


def _counts_all_tokens(subject: Subject) -> bool:
    unscored = (subject.batch.attention == 1) & ~subject.batch.scored
    return bool((subject.footprint.student & unscored).any())


def _unscored(subject: Subject, reduction: Reduction, evidence: tuple[str, ...], kind: str) -> Finding:
    scored, every = int(subject.batch.scored.sum()), subject.batch.labels.numel()
    padding = kind == "positions"
    return from_page(
        "loss-divides-by-unscored-positions",
        *evidence,
        f"{scored} of {every} positions are scored here",
        *([f"{_change(reduction, MORE_PADDING)} with {MORE_PADDING}"] if padding else []),
        f"{_change(reduction, MORE_PROMPT)} with {MORE_PROMPT}",
        severity="error" if padding and subject.padded else "warning",
    )


def _depends_on_padding(reduction: Reduction, part: str) -> list[Finding]:
    changed = [words for words in (MORE_PADDING, LEFT_PADDING) if abs(reduction.changes.get(words, 1.0) - 1.0) > 1e-2]
    if not changed:
        return []
    right = MORE_PADDING in changed
    return [
        from_page(
            "loss-depends-on-padding",
            *tuple(f"{part}: {_change(reduction, words)} with {words}" for words in changed),
            case="right" if right else "left",
            severity="error" if right else "warning",
        )
    ]


def _change(reduction: Reduction, words: str) -> str:
    return f"the gradient is multiplied by {reduction.changes[words]:.3g}" if words in reduction.changes else "refused"
