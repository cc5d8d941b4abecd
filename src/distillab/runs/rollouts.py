"""What a run shows and records of the answers that its student writes in training."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillab.data.columns import MadeWhenRead
from distillab.models.generation import continuation_text
from distillab.models.structure import bare_model
from distillab.records import RolloutRecord, RolloutSample
from distillab.runs.inputs import RunInputs
from distillab.training.rollout import Rollout

Figures = dict[str, float]  # of one step, see `training.rollout_log`
Samples = list[dict[str, str]]  # prompt, answer
_FAR = 0.5  # of the 16 most likely tokens, and of the tokens that the teacher would accept
_MOSTLY = 0.5  # of the answers
_WINDOW = 16  # steps
_PART = 10  # the first and the last tenth of the steps are recorded


@dataclass
class RolloutWatch:
    """Looks at each step of a run whose student writes answers.

    Args:
        longest: answers.max_new_tokens, where it is largest.
        examples: returns a few prompts with the student's answers: prompt, answer.
    """

    longest: int
    examples: Callable[[], list[dict[str, str]]]
    _last: deque[Figures] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _said: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, inputs: RunInputs, student: Any, rollout: Rollout | None) -> RolloutWatch | None:
        """Return that of a run; None where its student writes nothing."""
        if rollout is None:
            return None

        def examples() -> list[dict[str, str]]:
            found, tokenizer = rollout.examples(bare_model(student)), inputs.student.tokenizer
            return [
                {
                    "prompt": continuation_text(tokenizer, [], prompt),
                    # with the token that ended it, so that a cut one can be told
                    "answer": continuation_text(tokenizer, prompt, one.answer.scored_ids, special_tokens=True),
                }
                for prompt, one in found
            ]

        return cls(rollout.settings.longest, examples)

    def news(self, step: int, figures: Figures) -> list[str]:
        """Return what this step shows for the first time that needs a change of the recipe."""
        self._last.append(figures)
        whole = len(self._last) == _WINDOW and self._last[0]["max_new_tokens"] == self.longest
        found = {
            "far": _far(figures) if step == 1 else None,
            "cut": _cut(self._last, f" of the last {_WINDOW} steps") if whole else None,
            "guard": _guarded(self._last),
        }
        new = {name: text for name, text in found.items() if text is not None and name not in self._said}
        self._said.update(new)
        return list(new.values())


def summary(figures: Figures | None) -> str:
    """Return the progress line's part on what the student wrote; "" where it wrote nothing."""
    if figures is None:
        return ""
    apart = f" {figures['nats']:.3f} nats from the teacher" if "nats" in figures else ""
    return (
        f"; wrote {figures['length_mean']:.0f} tokens an answer{apart}, {figures['truncated']:.0%} cut, "
        f"{figures['repetitive']:.0%} repetitive"
    )


def with_shares_of_time(figures: Figures, elapsed: float) -> Figures:
    """Return the figures of a step with the shares of its seconds: of writing, of the teacher, and of the rest."""
    write, teach = figures["generate_s"] / elapsed, figures["teacher_s"] / elapsed
    return figures | {"share_generate": write, "share_teacher": teach, "share_student": max(0.0, 1.0 - write - teach)}


class RolloutSteps(MadeWhenRead[Figures]):
    """The figures of the steps in which a student wrote answers, one array for each figure."""

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}
        self._steps = 0

    def append(self, figures: Figures) -> None:
        """Append the figures of a step."""
        for name in figures.keys() - self._columns.keys():
            self._columns[name] = array("d", [math.nan]) * self._steps
        for name, column in self._columns.items():
            column.append(figures.get(name, math.nan))  # figures are finite: this one is missing
        self._steps += 1

    def __len__(self) -> int:
        return self._steps

    def _at_place(self, place: int) -> Figures:
        return {name: column[place] for name, column in self._columns.items() if not math.isnan(column[place])}


def rollout_notes(steps: Sequence[Figures]) -> tuple[str, ...]:
    """Return what a reader of the run must know of the answers that the student wrote; () where it wrote none."""
    if not steps:
        return ()
    longest = max(step["max_new_tokens"] for step in steps)
    # while the horizon grows, cut answers are the normal state
    notes = [_far(steps[0]), _cut(step for step in steps if step["max_new_tokens"] == longest), _guarded(steps)]
    return tuple(note for note in notes if note is not None)


def rollout_record(steps: Sequence[Figures], samples: Sequence[Samples]) -> RolloutRecord | None:
    """Return the figures at the start and the end of training with the example answers; None where it wrote none.

    Args:
        samples: prompts with the student's answers, before and after training.
    """
    if not steps:
        return None
    part = max(1, len(steps) // _PART)
    before, after = samples
    return RolloutRecord(
        steps=part,
        first=_means(steps[:part]),
        last=_means(steps[-part:]),
        samples=tuple(
            RolloutSample(prompt=one["prompt"], first=one["answer"], last=other["answer"])
            for one, other in zip(before, after, strict=True)
        ),
    )


def _means(steps: Sequence[Figures]) -> Figures:
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: statistics.fmean(step[name] for step in steps if name in step) for name in names}


def _far(first: Figures) -> str | None:
    overlap, accept = first.get("top16_overlap"), first.get("accept")
    # of a sure teacher most of the 16 are rounding: a student whose tokens it would write too is near enough
    if overlap is None or overlap >= _FAR or (accept is not None and accept >= _FAR):
        return None
    accepted = "" if accept is None else f", and the teacher would accept {accept:.0%} of the student's tokens"
    return (
        f"at step 1 student and teacher shared {overlap:.0%} of their 16 most likely tokens on the student's own "
        f"answers{accepted}; on-policy training needs about half: train the student with seqkd first, and start from "
        "it (stages: [seqkd, on_policy])"
    )


def _cut(steps: Iterable[Figures], which: str = "") -> str | None:
    cut = statistics.fmean(step["truncated"] for step in steps)
    return (
        f"{cut:.0%} of the student's answers{which} were cut at answers.max_new_tokens: raise it"
        if cut > _MOSTLY
        else None
    )


def _guarded(steps: Sequence[Figures]) -> str | None:
    most = max(step["fraction"] for step in steps)
    guarded = sum(step["fraction"] < most for step in steps)
    if not guarded:
        return None
    return (
        f"at {guarded} of {len(steps)} steps the student wrote fewer answers than answers.fraction, because more "
        "than a fifth of the last ones repeated themselves: if it lasts, lower training.learning_rate"
    )
