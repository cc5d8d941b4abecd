"""Which finding causes which other one: a consequence names its cause, and is at most a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillab.records import CheckResult, Finding, Severity

_RANK: Mapping[Severity, int] = {"note": 0, "warning": 1, "error": 2}

# rows with misplaced labels are read with corrected labels; their cut-off ends are then missing
_OF_LABELS = "all-masked-rows answers-truncated eos-missing eos-not-scored labels-not-inputs"
_OF_IDS = (
    "bos-missing double-bos eos-missing ids-outside-vocabulary markers-in-pieces template-of-another-family "
    "unknown-tokens"
)
_OF_MASKS = "attention-mask-looks-ahead padding-attended tokens-hidden"
_NOTHING_MOVES = (
    "budget-too-small evaluation-never-changes learning-rate-too-low loss-flat-near-uniform nothing-learned "
    "held-out-never-below-unigram"
)
_CURVES = (
    "held-out-worse-than-untrained initial-loss-far-from-uniform loss-below-entropy loss-diverges loss-too-good "
    "overfitting"
)
_BRINGS = {
    "answer-at-prompt-positions": _OF_LABELS,
    "labels-of-other-rows": _OF_LABELS,
    "labels-misaligned": _OF_LABELS,
    # the last label has no place
    "labels-not-shifted": _OF_LABELS,
    "labels-shifted-twice": _OF_LABELS,
    "labels-shifted-wrong-way": _OF_LABELS,
    "mask-inverted": "answers-truncated eos-missing eos-not-scored prompt-in-loss",
    "prompt-in-loss": "answer-header-scored prompt-end-scored",
    "attention-mask-inverted": _OF_MASKS,
    "attention-mask-kind": _OF_MASKS,
    "ids-of-another-tokenizer": _OF_IDS,
    "ids-outside-vocabulary": "labels-not-inputs",
    "answers-equal": "answers-one-token lowest-loss prompts-with-several-answers",
    "answers-empty": "answers-equal answers-one-token lowest-loss",
    "prompts-fill-rows": "answers-cut-off",
    "nan-shown-as-zero": "evaluation-never-changes gradient-not-finite loss-exactly-zero loss-not-finite",
    "loss-not-finite": "evaluation-never-changes gradient-not-finite held-out-worse-than-untrained loss-diverges",
    "learning-rate-zero": _NOTHING_MOVES,
    "gradient-zero": _NOTHING_MOVES,
    "loss-negative": _CURVES,
    "loss-never-changes": f"{_NOTHING_MOVES} gradient-norm-never-changes loss-exactly-zero",
    "loss-diverges": "gradient-explodes held-out-worse-than-untrained loss-spikes over-confident",
    "held-out-above-uniform": "over-confident overfitting",
    "held-out-never-below-unigram": "over-confident overfitting same-answer",
    "held-out-worse-than-untrained": "over-confident overfitting",
    "overfitting": "over-confident",
    "rollouts-grow": "rollouts-repeat",
    "steps-out-of-order": "schedule-restarts",
    "term-never-changes": "term-without-effect terms-fight",
}
# cause -> its consequences in the same batch, rows or log
BRINGS: Mapping[str, frozenset[str]] = {cause: frozenset(names.split()) for cause, names in _BRINGS.items()}


def with_causes(checks: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """Return the same findings; a consequence of another one names it, and is at most a warning.

    A cause is at least as severe as its consequence: a note does not explain an error.
    """
    findings = [finding for one in checks for finding in one.findings]
    linked = {id(finding): _linked(finding, findings) for finding in findings}
    return tuple(
        one.model_copy(update={"findings": tuple(linked[id(finding)] for finding in one.findings)}) for one in checks
    )


def follows(finding: Finding, causes: Sequence[str], *, severity: Severity) -> Finding:
    """Return a finding as the consequence of others, which must be fixed first."""
    names = tuple(dict.fromkeys((*finding.follows_from, *causes)))
    explanation = finding.explanation.removesuffix(_named(finding.follows_from))
    return finding.model_copy(
        update={
            "severity": severity,
            "follows_from": names,
            "explanation": explanation + _named(names),
            "fix": (f"fix {' and '.join(names)}, then run the check again",),
        }
    )


def _named(causes: Sequence[str]) -> str:
    return f" The cause was found: {', '.join(causes)}."


def _linked(finding: Finding, others: Sequence[Finding]) -> Finding:
    causes = [
        other.id
        for other in others
        if finding.id in BRINGS.get(other.id, ()) and _RANK[other.severity] >= _RANK[finding.severity]
    ]
    if not causes or finding.follows_from:
        return finding
    return follows(finding, causes, severity="warning" if finding.severity == "error" else finding.severity)
