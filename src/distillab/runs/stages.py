"""A run of two stages: its record holds both."""

from __future__ import annotations

from distillab.records import RunCost, RunRecord, total_cost

_ADDED = ("steps", "supervised_tokens", "student_tokens", "written_tokens", "teacher_tokens", "wall_s")


def staged_note(first: RunRecord, method: str, steps: int) -> str:
    """Return `stages: seqkd for 100 steps (held-out 2.310 nats/token after it), then on_policy for 100`."""
    after = f"held-out {first.evaluation.nats_per_token:.3f} nats/token after it"
    return f"stages: {first.method} for {first.cost.steps} steps ({after}), then {method} for {steps}"


def with_first_stage(record: RunRecord, first: RunRecord) -> RunRecord:
    """Return the record of the second stage with the first: its curve before, its cost added, its answers if it alone
    read any."""
    last = first.curve[-1]
    curve = [
        point.model_copy(
            update={
                "step": last.step + point.step,
                "supervised_tokens": last.supervised_tokens + point.supervised_tokens,
            }
        )
        for point in record.curve[1:]
    ]
    return record.model_copy(
        update={
            "warm_start": first.cost,
            "curve": (*first.curve, *curve),
            "cost": _together(first.cost, record.cost),
            "answers": record.answers or first.answers,
        }
    )


def _together(first: RunCost, second: RunCost) -> RunCost:
    added = {name: getattr(first, name) + getattr(second, name) for name in _ADDED}
    return second.model_copy(
        update={
            **added,
            "answers_s": first.answers_s if second.answers_s is None else second.answers_s,
            "served": total_cost([first.served, second.served]),
            "peak_rss_bytes": max(first.peak_rss_bytes, second.peak_rss_bytes),
        }
    )
