"""In which order the runs of a study are made: what a reader wants to see first comes first.

The order has no effect on any figure: a run depends on its own recipe and on what all runs share.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillab.config.study import ArmConfig

OneRun = tuple[ArmConfig, int]  # an arm, and a seed
_EAGER = 2  # workers that the first comparison keeps busy


def first_comparison(runs: Sequence[OneRun]) -> list[OneRun]:
    """Return SFT and the arm that is first compared with it, logits if there is one, with the first seed.

    Args:
        runs: all of a study, seed by seed.
    Returns:
        two runs; none where the study has no SFT, or nothing to compare with it.
    """
    first = [(arm, seed) for arm, seed in runs if seed == runs[0][1] and arm.shown_failure is None]
    sft = [run for run in first if run[0].name == "sft"]
    others = sorted((run for run in first if run not in sft), key=lambda run: run[0].method != "logits")
    return [*sft, others[0]] if sft and others else []


def in_stages(runs: Sequence[OneRun], unfinished: Sequence[OneRun], *, workers: int) -> list[list[OneRun]]:
    """Return the runs that are left, in the order in which they are made.

    The first comparison is a stage of its own, so that it does not wait for what only other arms need; many workers
    would be idle meanwhile, and have one stage. Of each seed the shown failures come last.

    Args:
        runs: all of the study, seed by seed.
        unfinished: those of them that are left.
        workers: runs at the same time.
    """
    early = [run for run in first_comparison(runs) if run in unfinished]
    seeds = list(dict.fromkeys(seed for _, seed in runs))
    late = [run for run in unfinished if run not in early]
    late.sort(key=lambda run: (seeds.index(run[1]), run[0].shown_failure is not None))
    stages = [early, late] if workers <= _EAGER else [[*early, *late]]
    return [stage for stage in stages if stage]
