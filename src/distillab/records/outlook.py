"""Make the warnings that stand out: a student that starts or ends worse than expected, a teacher no better than SFT.

Terminal, report and doctor print those on the student first, those on a teacher after the headline.
"""

from __future__ import annotations

from collections.abc import Mapping

from distillab.records.runs import RunRecord
from distillab.records.studies import StudyResults

# A pretrained student is far below log V. Random weights are near it: above, by half the variance of their logits.
_ABOVE_PRETRAINED, _ABOVE_RANDOM = 0.02, 0.3


def begins_above_uniform(nats: float, uniform: float, *, random: bool | None) -> bool:
    """Return whether an untrained student is worse than a uniform guess; False where its weights are unknown."""
    return random is not None and nats > uniform * (1 + (_ABOVE_RANDOM if random else _ABOVE_PRETRAINED))


def outlook(
    start: float | None, ends: Mapping[str, float], *, uniform: float | None, random: bool | None
) -> tuple[str, ...]:
    """Return the warnings that are shown first, a sentence each.

    Args:
        start: held-out nats per token before training; None: not measured.
        ends: the same after it, of every arm or run by its name, on the same rows.
        uniform: log V, if it is known.
        random: whether the student began with random weights; None: not known.
    """
    if start is None:
        return ()
    found = []
    if uniform is not None and begins_above_uniform(start, uniform, random=random):
        found.append(
            f"The student starts above log V, worse than a uniform guess: {start:.3f} nats per token before training, "
            f"log V is {uniform:.3f}."
        )
    if ends and min(ends.values()) >= start:
        best = min(ends, key=lambda name: ends[name])
        worse = "worse than" if ends[best] > start else "no better than"
        who, after = ("Every arm is", f"after the best of {len(ends)}, {best}")
        if len(ends) == 1:
            who, after = f"{best} is", "after it"
        found.append(
            f"{who} {worse} the undistilled student: {start:.3f} nats per token before training, {ends[best]:.3f} "
            f"{after}."
        )
    return tuple(found)


def teachers_not_better(results: StudyResults) -> tuple[str, ...]:
    """Return a sentence for each teacher that is not better than SFT on the data set's answers."""
    found = []
    for point in results.baselines:
        compared = next((one for one in point.comparisons if one.family == "likelihood"), None)
        if compared is not None and compared.difference.low is not None and compared.difference.outcome != "better":
            gap = compared.difference
            found.append(
                f"{point.name}, the teacher, is not better than SFT on the data set's answers: {gap.mean:+.3f} "
                f"{compared.unit} (95 % interval {gap.low:+.3f} to {gap.high:+.3f}). A student that follows it comes "
                "nearer to it, and no better there. Ways out: train the teacher on these rows first (teacher "
                "correction), or let it write the answers (seqkd)."
            )
    return tuple(found)


def study_outlook(results: StudyResults) -> tuple[str, ...]:
    """Return the sentences of a study; shown failures do not count."""
    untrained = [point for point in results.baselines if point.role == "undistilled student"]
    ends = {
        arm.name: sum(e.nats_per_token for e in arm.evaluations) / len(arm.evaluations)
        for arm in results.arms
        if arm.shown_failure is None and arm.evaluations
    }
    start = untrained[0] if untrained else None
    return outlook(
        None if start is None else start.evaluation.nats_per_token,
        ends,
        uniform=results.references.uniform_nats,
        random=None if start is None else start.random,
    )


def run_outlook(record: RunRecord) -> tuple[str, ...]:
    """Return the sentences of a run, by the first and the last point of its curve; none for a shown failure."""
    first, last = record.curve[0], record.curve[-1]
    if record.shown_failure is not None:
        return ()
    return outlook(
        first.held_out_nats_per_token if first.step == 0 else None,
        {record.name: last.held_out_nats_per_token},
        uniform=record.references.uniform_nats,
        random=record.config["student"]["init"] == "random",
    )
