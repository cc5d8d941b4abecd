"""Assemble the results of a study from the records of its runs; no model is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distillab.config.models import StudyRecipe
from distillab.evaluation.references import reference_lines
from distillab.records import (
    AnswerStoreCounts,
    ArmResult,
    Baseline,
    CacheUse,
    EncodingCounts,
    GenerationSample,
    Interval,
    Investigation,
    RunRecord,
    SpanCounts,
    StudyResults,
    TokenizerContract,
)
from distillab.runs.environment import environment
from distillab.runs.folder import read_held_out
from distillab.runs.inputs import RunInputs
from distillab.runs.teacher import TRAINING
from distillab.study.statistics import adjusted, paired_interval
from distillab.terminal import plural

_SAMPLES = 10
_NAMED = 3
_Counts = TypeVar("_Counts", EncodingCounts, AnswerStoreCounts, SpanCounts)


def assemble(
    recipe: StudyRecipe,
    inputs: RunInputs,
    *,
    baselines: Sequence[Baseline],
    records: Sequence[RunRecord],
    contracts: Sequence[TokenizerContract],
    caches: Sequence[CacheUse],
    reproduce: str,
    investigation: Investigation | None = None,
) -> StudyResults:
    """Assemble the results of a study from its finished runs.

    Args:
        investigation: what the doctor found before the first run; None: it was skipped.
    """
    folder = Path(recipe.output)
    by_arm = {arm.name: [record for record in records if record.arm == arm.name] for arm in recipe.arms}
    made = {use.path: use.teacher_s for use in caches}
    arms = _adjusted([_arm(folder, name, runs, by_arm["sft"], made) for name, runs in by_arm.items()])
    vocabulary = len(inputs.student.tokenizer)
    return StudyResults(
        title=recipe.title,
        question="Given this teacher and this student, what does each level of access to the teacher buy?",
        verdict=verdict(arms),
        budget=_budget(recipe),
        references=reference_lines(inputs.train.rows, inputs.eval_rows, vocabulary=vocabulary),
        baselines=tuple(baselines),
        arms=arms,
        samples=_samples(folder, recipe, inputs, baselines),
        contracts=tuple(contracts),
        train_counts=_distinct([record.train_counts for record in records]),
        held_out_counts=inputs.held_out_counts,
        spans=_distinct([record.spans for record in records if record.spans is not None]),
        answer_stores=_distinct([record.answers for record in records if record.answers is not None]),
        caches=tuple(caches),
        investigation=investigation,
        reproduce=reproduce,
        environment=environment(),
        wall_s=sum(record.cost.wall_s for record in records),
        shared_s=_shared_s(records, made),
    )


def verdict(arms: Sequence[ArmResult]) -> str:
    """Return the differences from SFT in a few lines, however many arms there are; every interval is in the table."""
    real = [arm for arm in arms if arm.shown_failure is None and arm.against_sft is not None]
    if not real:
        return "The study has only the arm SFT, so there is nothing to compare."
    same, other = (_grouped([arm for arm in real if arm.across_tokenizers is across]) for across in (False, True))
    text = f"Compared with SFT on the same rows{_measured(real)}: {same}." if same else ""
    if other:
        joined = " Across" if same else f"Compared with SFT on the same rows{_measured(real)}, across"
        text += f"{joined} tokenizers, from a teacher with other tokens: {other}."
    shown = [arm.name for arm in arms if arm.shown_failure is not None]
    if shown:
        text += f" Shown as failures, not as results: {', '.join(shown)}."
    return text


def _measured(arms: Sequence[ArmResult]) -> str:
    """Return ` (n = 200 rows × 3 seeds; claims at 5 % for all 4 arms together, Holm)`."""
    found = {arm.against_sft.measured_on for arm in arms if arm.against_sft is not None}
    parts = [*(found if len(found) == 1 else ())]
    if len(arms) > 1:
        parts.append(f"claims at 5 % for all {len(arms)} arms together, Holm")
    text = "; ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def _grouped(arms: Sequence[ArmResult]) -> str:
    """Return the arms by outcome, the best of each first; the first one that is better, or worse, with its interval."""
    known = [(arm.against_sft, arm.name) for arm in arms if arm.against_sft is not None]
    ordered = sorted(known, key=lambda pair: (pair[0].mean, pair[1]))
    better, worse, unclear = (
        [pair for pair in ordered if pair[0].outcome == outcome] for outcome in ("better", "worse", "open")
    )
    parts = [_claim(word, found) for word, found in (("better", better), ("worse", worse[::-1])) if found]
    if unclear:
        few = any(difference.low is None for difference, _ in unclear)
        why = " (too few rows for an interval)" if few else ""
        parts.append(f"no significant difference from SFT: {_names([name for _, name in unclear])}{why}")
    return "; ".join(parts)


def _claim(word: str, found: Sequence[tuple[Interval, str]]) -> str:
    (difference, name), rest = found[0], [name for _, name in found[1:]]
    interval = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    text = f"{name} is {word} by {abs(difference.mean):.3f} nats a token ({interval})"
    return f"{text}, {_names(rest)} by less" if rest else text


def _names(names: Sequence[str]) -> str:
    """Return all of a few names, the number of many."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} more"


def _shared_s(
    records: Sequence[RunRecord], made: Mapping[str, float | None], *, training: bool = False
) -> float | None:
    """Return the seconds to make what runs read of their teachers, each once; None if one was made elsewhere.

    Args:
        made: seconds of the caches, by their path.
        training: without what only the evaluation reads.
    """
    seconds: dict[str, float | None] = {}
    for record in records:
        if record.answers is not None:
            seconds[record.answers.path] = record.cost.answers_s
        if record.teacher_correction is not None and record.teacher is not None and record.access != "none":
            seconds[f"the correction of {record.teacher.name}"] = record.teacher_correction.wall_s
        uses = [use for use in record.caches if use.source == TRAINING or not training]
        seconds.update((use.path, made.get(use.path)) for use in uses)
    known = [value for value in seconds.values() if value is not None]
    return sum(known) if len(known) == len(seconds) else None


def _arm(
    folder: Path,
    name: str,
    runs: Sequence[RunRecord],
    sft: Sequence[RunRecord],
    made: Mapping[str, float | None],
) -> ArmResult:
    first = runs[0]
    return ArmResult(
        name=name,
        method=first.method,
        access=first.access,
        teacher=first.teacher.name if first.teacher is not None and first.access != "none" else None,
        across_tokenizers=_across(first),
        shown_failure=first.shown_failure,
        seeds=tuple(run.seed for run in runs),
        evaluations=tuple(run.evaluation for run in runs),
        curves=tuple(run.curve for run in runs),
        costs=tuple(run.cost for run in runs),
        against_sft=None if name == "sft" else _against(folder, runs, sft),
        shared_s=_shared_s(runs, made, training=True),
    )


def _adjusted(arms: Sequence[ArmResult]) -> tuple[ArmResult, ...]:
    """Return the arms with p-values for all comparisons together; a shown failure is no comparison."""
    family = {arm.name: arm.against_sft for arm in arms if arm.shown_failure is None and arm.against_sft is not None}
    by_name = dict(zip(family, adjusted(list(family.values())), strict=True))
    return tuple(arm.model_copy(update={"against_sft": by_name.get(arm.name, arm.against_sft)}) for arm in arms)


def _across(run: RunRecord) -> bool:
    return run.access != "none" and run.contract is not None and run.contract.verdict == "different"


def _against(folder: Path, runs: Sequence[RunRecord], sft: Sequence[RunRecord]) -> Interval:
    arm = [_row_nats(folder, run) for run in runs]
    base = [_row_nats(folder, run) for run in sft]
    return paired_interval([nats for nats, _ in arm], [nats for nats, _ in base], arm[0][1])


def _row_nats(folder: Path, run: RunRecord) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lines = [line for line in _held_out_lines(folder, run.arm, run.seed) if "nats" in line]
    return np.array([line["nats"] for line in lines]), np.array([line["tokens"] for line in lines], dtype=np.float64)


def _held_out_lines(folder: Path, arm: str, seed: int) -> list[dict[str, object]]:
    return read_held_out(folder / "runs" / arm / f"seed{seed}" / "held_out.jsonl")


def _samples(
    folder: Path, recipe: StudyRecipe, inputs: RunInputs, baselines: Sequence[Baseline]
) -> tuple[GenerationSample, ...]:
    """Return the first ten generated answers of every model; arms with their first seed."""
    answers: dict[str, list[str]] = {}
    for point in baselines:
        stem = "undistilled" if point.role == "undistilled student" else f"teacher-{point.name}"
        answers[point.name] = _answers(read_held_out(folder / "baselines" / f"{stem}.jsonl"))
    for arm in recipe.arms:
        answers[arm.name] = _answers(_held_out_lines(folder, arm.name, recipe.seeds[0]))
    n = min(_SAMPLES, recipe.evaluation.generate_rows, len(inputs.held_out.rows))
    return tuple(
        GenerationSample(
            prompt=inputs.held_out.prompts[index],
            reference=inputs.held_out.references[index],
            answers={name: given[index] for name, given in answers.items()},
        )
        for index in range(n)
    )


def _answers(lines: Sequence[dict[str, object]]) -> list[str]:
    return [str(line["answer"]) for line in lines if "answer" in line]


def _budget(recipe: StudyRecipe) -> str:
    training = recipe.training
    return (
        f"{plural(training.steps, 'optimizer step')} of {plural(training.batch_size, 'sequence')}, learning rate "
        f"{training.learning_rate:g} ({training.schedule}), the same for every arm; {plural(len(recipe.seeds), 'seed')}"
    )


def _distinct(records: Sequence[_Counts]) -> tuple[_Counts, ...]:
    seen: dict[str, _Counts] = {}
    for record in records:
        seen.setdefault(record.model_dump_json(), record)
    return tuple(seen.values())
