"""What the trained student writes: does it stop, does it repeat itself, does it read its prompt?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.run.logs import Run
from distillab.doctor.run.logs_other import read_json_lines
from distillab.errors import DataError
from distillab.records import Finding, RunRecord

_FEWEST = 10
_SAME_SHARE = 0.5
_LONGEST_SHOWN = 100
_REPEATED = 0.5
_WORDS = 12
_SHORT = 1.5


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
    return tuple(
        repr(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…") for text in list(answers)[:3]
    )
