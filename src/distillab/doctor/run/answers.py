"""What the student writes, after training (does it stop, does it repeat itself?) and during it (does it grow?).

The names of the figures of training are those of `training.rollout_log`; `rows` names the columns of TRL and verl that
mean the same. Where the longest answer grows by a schedule, the steps before its end are not judged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.words import shown
from distillab.doctor.run.logs import Run
from distillab.doctor.run.logs_other import read_json_lines
from distillab.doctor.run.series import RunSeries, Trend, trend
from distillab.errors import DataError
from distillab.records import Finding, RunRecord

_FEWEST = 10
_SAME_SHARE = 0.5
_REPEATED = 0.5
_WORDS = 12
_SHORT = 1.5
_FEWEST_STEPS = 20
_LONGER = 0.5
_DISTINCT = 0.5
_FEW_EFFECTIVE = 0.5
_MORE_CUT = 0.2
_MASS_LOST = 0.1
_SURER = 0.9
_TEACHER_UNSURE = 4.0
_LOSS_LEFT = 0.5
_REPETITIVE = 0.2
_ALL_CUT = 0.95
# figure -> above this it is another model that samples; above this and twice its first value, one that falls behind
_GAPS = {"sampler_gap": (0.1, 0.03), "sampler_gap_probability": (0.05, 0.02)}
_UNITS = {"sampler_gap": "nats", "sampler_gap_probability": "of probability"}
_LESS_CORRECTION = 0.5
_LESS_SURE = 1.25
_PLACES = ("128_on", "32_128")
_FIRST = "0_32"


@check("run-answers")
def check_answers(run: Run) -> Checked:
    """Check the generations of a finished run: without an end, with loops, the same for every prompt, nearly empty.

    Raises:
        DataError: its held_out.jsonl is lost or damaged.
    """
    record = run.record
    if record is None or run.folder is None or not record.evaluation.n("generations"):
        return
    n, mean = record.evaluation.n("generations"), record.evaluation.value("mean_tokens")
    yield Scope("0 answers")
    if n < _FEWEST or mean is None:
        raise Skipped("the run generated too few answers")
    rows = _rows(run.folder / "held_out.jsonl")
    answers = [row["answer"] for row in rows if isinstance(row.get("answer"), str)]
    lengths = [row["tokens"] for row in rows if isinstance(row.get("tokens"), int)]
    expected = sum(lengths) / len(lengths) if lengths else None  # with the EOS
    yield Scope(f"{n} greedy answers, of {mean:.1f} tokens on average")
    yield _repeats(answers) or _never_stops(record, expected, answers)
    yield same_answer(answers)
    yield _nearly_empty(record, expected, answers)


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if not path.exists():
        raise DataError(
            "A finished run has lost its held_out.jsonl.",
            where=str(path),
            fix="restore it, or give metrics.jsonl alone",
        )
    return [row.values for row in read_json_lines(path)[0]]


def _never_stops(record: RunRecord, expected: float | None, answers: Sequence[str]) -> Finding | None:
    stopped = record.evaluation.value("stopped_by_eos")
    room = record.config.get("evaluation", {}).get("max_new_tokens")
    # where the answers themselves need the room, not stopping means nothing
    if not isinstance(room, int) or expected is None or expected > 0.6 * room or stopped is None or stopped >= 0.2:
        return None
    return from_page(
        "never-stops",
        f"{stopped:.0%} of {record.evaluation.n('generations')} answers end by EOS within {room} tokens",
        f"the held-out answers have {expected:.1f} tokens on average, EOS included",
        example=_shown(answers),
    )


def _repeats(answers: Sequence[str]) -> Finding | None:
    judged = [answer for answer in answers if len(answer.split()) >= _WORDS]
    if len(answers) < _FEWEST or len(judged) < 0.2 * len(answers):
        return None
    looping = [answer for answer in judged if repeated_share(answer) > _REPEATED]
    if len(looping) < 0.3 * len(answers):
        return None
    return from_page(
        "repeats-itself",
        f"{len(looping)} of {len(answers)} answers: more than half of their groups of three words repeat",
        example=_shown(looping),
    )


def repeated_share(answer: str) -> float:
    """Return the share of a text's groups of three words that occur in it before; of three words at least."""
    words = answer.split()
    groups = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
    return 1 - len(set(groups)) / len(groups)


def same_answer(answers: Sequence[str]) -> Finding | None:
    """Return the finding of one text that is half of all answers, or more."""
    if len(answers) < _FEWEST:
        return None
    answer, times = Counter(text.strip() for text in answers).most_common(1)[0]
    if times < _SAME_SHARE * len(answers):
        return None
    return from_page("same-answer", f"{times} of {len(answers)} answers are the same text", example=_shown([answer]))


def _nearly_empty(record: RunRecord, expected: float | None, answers: Sequence[str]) -> Finding | None:
    mean = record.evaluation.value("mean_tokens")
    if expected is None or expected < 4 or mean is None or mean > _SHORT:
        return None
    return from_page(
        "answers-nearly-empty",
        f"{mean:.2f} tokens an answer on average, EOS included",
        f"the held-out answers have {expected:.1f}",
        example=_shown(answers),
    )


def _shown(answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(shown, answers[:3]))


@check("run-rollouts")
def check_rollouts(series: RunSeries) -> Checked:
    """Check for answers that grow, collapse, are all the same, loop or are stale, and for a teacher lost at the end."""
    written = [point for point in series.steps if point.written_share]
    if not written:
        return
    horizon = written[-1].written.get("max_new_tokens")
    settled = [point for point in written if point.written.get("max_new_tokens") == horizon]
    yield Scope(f"figures of what the student wrote at {len(settled):,} steps with the same longest answer")
    if len(settled) < _FEWEST_STEPS:
        raise Skipped(f"fewer than {_FEWEST_STEPS} steps log what the student wrote")
    names = dict.fromkeys(name for point in settled for name in point.written)
    columns = {name: [point.written[name] for point in settled if name in point.written] for name in names}
    columns["loss"] = [point.loss for point in settled if point.loss is not None]
    ends = {
        name: trend(values)
        for name, values in columns.items()
        if len(values) >= _FEWEST_STEPS and all(map(math.isfinite, values))
    }
    yield _grow(ends) or _truncated(ends)
    yield _collapse(ends)
    yield _same(ends)
    yield _repeat(ends)
    yield from (_stale(ends, name) for name in _GAPS)
    yield _reused(ends)
    yield _late(ends)


def _grow(ends: dict[str, Trend]) -> Finding | None:
    length, cut, apart = ends.get("length_mean"), ends.get("truncated"), ends.get("nats")
    if length is None or not length.rose(_LONGER):
        return None
    longer = _both("tokens of an answer", length, ".0f")
    if cut is not None and cut.tail - cut.head >= _MORE_CUT and cut.rose():
        return from_page("rollouts-grow", longer, _both("answers that are cut", cut, ".0%"), case="cut")
    if apart is None or apart.tail < apart.head:
        return None
    no_nearer = _both("nats from the teacher, a written token", apart, ".3g")
    return from_page("rollouts-grow", longer, no_nearer, case="no nearer")


def _both(what: str, ends: Trend, form: str) -> str:
    return f"{what}: {ends.head:{form}} at first, {ends.tail:{form}} at the end"


def _truncated(ends: dict[str, Trend]) -> Finding | None:
    cut = ends.get("truncated")
    if cut is None or min(cut.head, cut.tail) < _ALL_CUT:
        return None
    return from_page("rollouts-truncated", _both("cut", cut, ".0%"))


def _collapse(ends: dict[str, Trend]) -> Finding | None:
    mass, given = ends.get("top16_mass_student"), ends.get("top16_mass_teacher")
    if mass is not None and mass.fell(_MASS_LOST) and not (given is not None and given.fell(_MASS_LOST)):
        likeliest = "the student's probability of the teacher's likeliest tokens"
        return from_page("rollouts-collapse", _both(likeliest, mass, ".3f"))
    own, teacher, loss = ends.get("student_entropy"), ends.get("teacher_entropy"), ends.get("loss")
    if own is None or not own.fell(_SURER):
        return None
    if teacher is not None:
        unlike, other = teacher.tail > _TEACHER_UNSURE * own.tail, f"the teacher's at the end: {teacher.tail:.3g}"
    elif loss is not None:
        unlike, other = loss.tail > _LOSS_LEFT * loss.head, f"loss: {loss.head:.3g} at first, {loss.tail:.3g}"
    else:
        return None
    evidence = _both("the student's entropy in nats", own, ".3g")
    return from_page("rollouts-collapse", evidence, other) if unlike else None


def _same(ends: dict[str, Trend]) -> Finding | None:
    own, stored = ends.get("distinct"), ends.get("distinct_stored")
    if own is None or stored is None or own.tail >= _DISTINCT * stored.tail:
        return None
    return from_page(
        "rollouts-same",
        _both("different answers of a step", own, ".0%"),
        f"of the data set's answers to the same prompts: {stored.tail:.0%}",
    )


def _repeat(ends: dict[str, Trend]) -> Finding | None:
    share = ends.get("repetitive")
    if share is None or share.tail <= _REPETITIVE:
        return None
    return from_page("rollouts-repeat", _both("answers with loops", share, ".0%"))


def _stale(ends: dict[str, Trend], name: str) -> Finding | None:
    gap, (wrong, behind) = ends.get(name), _GAPS[name]
    if gap is None or not (gap.tail > wrong or (gap.tail > behind and gap.rose(1.0))):
        return None
    return from_page(
        "rollouts-stale",
        f"mean difference between sampler and student at the written tokens: {gap.head:.3g} {_UNITS[name]} at "
        f"first, {gap.tail:.3g} at the end",
        case="other weights",
    )


def _reused(ends: dict[str, Trend]) -> Finding | None:
    effective = ends.get("stale_ess")
    if effective is None or effective.tail >= _FEW_EFFECTIVE:
        return None
    weights = "effective sample size of the importance weights, of the tokens"
    return from_page("rollouts-stale", _both(weights, effective, ".0%"), case="reused")


def _late(ends: dict[str, Trend]) -> Finding | None:
    place = next((one for one in _PLACES if f"nats_{one}" in ends and f"teacher_entropy_{one}" in ends), None)
    if place is None or not {f"nats_{_FIRST}", f"teacher_entropy_{_FIRST}"} <= set(ends):
        return None
    early, late = ends[f"nats_{_FIRST}"].tail, ends[f"nats_{place}"].tail
    sure, unsure = ends[f"teacher_entropy_{_FIRST}"].tail, ends[f"teacher_entropy_{place}"].tail
    if late > _LESS_CORRECTION * early or unsure < _LESS_SURE * sure:
        return None
    return from_page(
        "rollouts-late",
        f"divergence in nats: {early:.3g} at the first 32 tokens, {late:.3g} at tokens {place}",
        f"the teacher's entropy in nats: {sure:.3g} and {unsure:.3g}",
    )
