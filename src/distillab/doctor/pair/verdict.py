"""What the measures of a signal mean: is it about the tokens beside which it stands?

The teacher's own confidence says how much there is to find: if its probabilities were right, the signal would gain so
many nats against shuffled ones. Real teachers on text that they know gained 0.35 to 1.04 of that (0.35: 4.9 M
parameters, trained on stories, reading worded sums); signals at unrelated ids 0.00 to 0.02. The limits lie between.

But a confident teacher also gains nothing on text of which it knows nothing (stories models on hexadecimal digits:
-0.02 to 0.00), and then often repeats the token that it reads, which looks like a shift by one. So an error needs a
proof that the teacher knows the text: its gain at its own tokens, or a place at which the signal does fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distillab.doctor.pair.measures import Measures
from distillab.doctor.pair.permutation import Tested
from distillab.records import CheckResult, Finding

CHECK_ID = "alignment"
MIN_POSITIONS = 64
MIN_ROWS = 8
MIN_CLAIMS_NATS = 0.5
UNRELATED_SHARE = 0.1
# three standard deviations of the shuffled means: a lucky draw does not make a signal unrelated
_SPREADS = 3.0
# a test that could not tell the whole effect from none has nothing to say
_POWER_SPREADS = 10.0
_SURE_P = 0.01
# read so many positions later, a signal is compared with the token that the teacher has just read
_REPEATS = 1
_AS_GOOD_AS_OWN = 0.7
_MIN_COMPARABLE = 4

Reading = Literal["fits", "unrelated", "shifted", "other rows", "cannot tell"]


@dataclass(frozen=True)
class Verdict:
    """What a signal is taken for.

    Attributes:
        reference: nats a token that it would have gained if it fitted.
        sure: there is no other reading; False: or the teacher knows nothing of this text.
        reason: why nothing can be told.
    """

    reading: Reading
    reference: float
    sure: bool = False
    reason: str = ""


def verdict(measures: Measures, *, own: Tested | None) -> Verdict:
    """What the signal is.

    Args:
        own: the same teacher at its own tokens, on the same text, where that was measured.
    """
    knows = own is not None and own.gain >= MIN_CLAIMS_NATS and own.p <= _SURE_P
    reference = own.gain if own is not None and knows else measures.claims
    lacking = _no_power(measures, reference)
    if lacking is not None:
        return Verdict("cannot tell", reference, reason=lacking)
    tokens, rows = measures.tokens, measures.other_rows
    if rows is not None and rows.comparable >= _MIN_COMPARABLE and 2 * rows.fits_elsewhere > rows.comparable:
        return Verdict("other rows", reference, sure=True)
    tested = _tested(measures)
    assert tested is not None  # there was power
    offset = shifted_by(measures)
    if tokens is not None and offset is not None and _fits_at(measures, offset, tokens, own if knows else None):
        return Verdict("shifted", reference, sure=knows or offset != _REPEATS)
    if tokens is not None and _lost(tokens, reference):
        return Verdict("unrelated", reference, sure=knows)
    enough = rows is not None and measures.rows >= MIN_ROWS and rows.claims >= MIN_CLAIMS_NATS
    if enough and rows is not None and _lost(rows.tested, rows.claims):
        return Verdict("other rows", reference)
    if tested.gain - _SPREADS * tested.spread < UNRELATED_SHARE * reference:
        reason = (
            f"the signal gains {tested.gain:.2f} ± {tested.spread:.2f} of {reference:.2f} nats on "
            f"{measures.positions:,} tokens (p = {tested.p:.2g}): too much for an unrelated one, too little for "
            "one that fits; ask about more rows, or about text that the teacher knows"
        )
        return Verdict("cannot tell", reference, reason=reason)
    return Verdict("fits", reference)


def _fits_at(measures: Measures, offset: int, tokens: Tested, own: Tested | None) -> bool:
    """Whether the signal belongs `offset` positions away.

    At ids that it cannot read a teacher repeats them too, but gains less by that than by its own tokens.
    """
    best = measures.at_offset[offset]
    stands_out = best > tokens.gain + max(0.25 * measures.claims, 2 * _SPREADS * tokens.spread)
    as_own = own is None or best > _AS_GOOD_AS_OWN * own.gain
    return stands_out and tokens.gain < 0.5 * best and as_own


def shifted_by(measures: Measures) -> int | None:
    """The offset at which the signal gains most; None where no other one can be tried."""
    return max(measures.at_offset, key=lambda offset: measures.at_offset[offset]) if measures.at_offset else None


def judged(measures: Measures, *, scope: str, own: Tested | None) -> CheckResult:
    """One record of the check.

    Args:
        scope: how many tokens, and whose.
        own: as for `verdict`.
    """
    found = verdict(measures, own=own)
    if found.reading == "cannot tell":
        return CheckResult(check=CHECK_ID, scope=scope, skipped=found.reason)
    evidence = _seen(measures, own)
    if found.reading == "fits":
        return CheckResult(check=CHECK_ID, scope=f"{scope}; {evidence[0]}")
    make = {"unrelated": _unrelated, "shifted": _shifted, "other rows": _of_other_rows}[found.reading]
    return CheckResult(check=CHECK_ID, scope=scope, findings=(make(measures, found, evidence),))


def _no_power(measures: Measures, reference: float) -> str | None:
    if measures.positions < MIN_POSITIONS:
        return f"{measures.positions} scored tokens are too few to tell; {MIN_POSITIONS} are needed"
    tested = _tested(measures)
    if tested is None:
        return "every row has one scored token, and there is one row: nothing can be shuffled"
    if reference < MIN_CLAIMS_NATS:
        return (
            f"the teacher says nearly the same at every position ({reference:.2f} nats apart), so that nothing could "
            "show where its signal belongs"
        )
    if reference < _POWER_SPREADS * tested.spread:
        return (
            f"the test could not tell: a fitting signal would gain {reference:.2f} nats a token, and chance alone "
            f"gives ± {tested.spread:.2f} on {measures.positions} tokens"
        )
    return None


def _tested(measures: Measures) -> Tested | None:
    """Rows with one scored token each can be exchanged, not shuffled."""
    if measures.tokens is not None or measures.other_rows is None:
        return measures.tokens
    return measures.other_rows.tested


def _lost(tested: Tested, reference: float) -> bool:
    return tested.gain + _SPREADS * tested.spread < UNRELATED_SHARE * reference


def _seen(measures: Measures, own: Tested | None) -> tuple[str, ...]:
    lines = []
    if measures.tokens is not None:
        lines.append(f"log-probability of the tokens against signals shuffled within rows: {_told(measures.tokens)}")
    lines.append(f"what a signal as confident as this one would gain if it were right: {measures.claims:.2f} nats")
    if own is not None:
        lines.append(f"what this teacher gains at its own tokens on the same text: {own.gain:.2f} nats")
    if measures.other_rows is not None:
        lines.append(f"against signals of other rows at the same place: {_told(measures.other_rows.tested)}")
    if measures.names is not None:
        lines.append(f"against a shuffled vocabulary: {_told(measures.names)}")
    if measures.kl is not None:
        lines.append(f"KL(teacher ‖ student) against signals shuffled within rows: {_told(measures.kl)}")
    if measures.agreement is not None:
        tested = measures.agreement
        lines.append(
            f"same first choice as the student: {tested.mean:.1%}, shuffled {tested.shuffled:.1%} (p = {tested.p:.2g})"
        )
    offset = shifted_by(measures)
    if offset is not None:
        lines.append(f"read at another position, best {offset:+d}: gain {measures.at_offset[offset]:.2f} nats")
    return tuple(lines)


def _told(tested: Tested) -> str:
    return (
        f"gain {tested.gain:.2f} ± {tested.spread:.2f} nats a token (p = {tested.p:.2g}, {tested.positions:,} tokens)"
    )


def _unrelated(measures: Measures, found: Verdict, evidence: tuple[str, ...]) -> Finding:
    knows_names = measures.names is not None and measures.names.p <= 0.01 and measures.names.gain > 0.5
    return Finding(
        id="teacher-signal-unrelated",
        severity="error" if found.sure else "warning",
        title="What the teacher says is not about the tokens beside which it stands.",
        evidence=evidence,
        explanation="The teacher is confident, but at these tokens it does no better than if its signals were "
        "shuffled: a loss that compares by position and id would teach noise. "
        + (
            "The vocabulary fits better than a shuffled one: look at positions and rows first."
            if knows_names
            else "Nor does the vocabulary fit: the ids mean other tokens to the teacher."
        )
        + ("" if found.sure else " Or the teacher knows nothing of this kind of text, and is sure all the same."),
        fix=(
            "compare the two tokenizers: distillab check TEACHER STUDENT",
            "where they differ: a teacher with the student's tokenizer, or method: seqkd",
            "where they are the same: check that the weights belong to the tokenizer, and the order of stored rows",
        ),
    )


def _shifted(measures: Measures, found: Verdict, evidence: tuple[str, ...]) -> Finding:
    offset = shifted_by(measures)
    return Finding(
        id="teacher-signal-shifted",
        severity="error" if found.sure else "warning",
        title="The teacher's signal belongs to another position.",
        evidence=evidence,
        explanation=f"It fits the tokens when it is read at {offset:+d} of where it stands. Either logits were moved "
        "against the ids once too often or once too little, or the teacher itself was trained so."
        + ("" if found.sure else " Or it repeats the token that it reads, as models do on text that they do not know."),
        fix=(
            "the logits at position t predict the id at t + 1: shift one of the two, once",
            "ask the teacher for a text: if it writes none, it was trained with a wrong shift, or not at all",
        ),
    )


def _of_other_rows(measures: Measures, found: Verdict, evidence: tuple[str, ...]) -> Finding:
    rows = measures.other_rows
    assert rows is not None
    told = (*evidence, f"rows whose tokens another row's signal fits: {rows.fits_elsewhere} of {rows.comparable}")
    if found.sure and rows.example is not None:
        row, signal = rows.example
        told = (*told, f"e.g. the signal of examined row {row} (counted from 0) stands beside row {signal}")
    return Finding(
        id="teacher-signal-of-other-rows",
        severity="error" if found.sure else "warning",
        title="The teacher's signals belong to other rows.",
        evidence=told,
        explanation="They know what usually stands at a place of an answer, and nothing of the row beside which they "
        "stand. "
        + (
            "Rows were put in another order after the teacher had read them."
            if found.sure
            else "Rows were put in another order, or the teacher is confident and wrong about what differs among rows."
        ),
        fix=(
            "store signals under the row's key, or a hash of its tokens, and look them up by it",
            "do not shuffle, filter or sort the data between storing and reading",
        ),
    )
