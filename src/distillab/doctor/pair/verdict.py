"""What the measures of a signal mean: does it belong to the tokens at its positions?

The teacher's own confidence shows how much there is to find: if its probabilities were right, the signal would gain so
many nats against shuffled ones. Real teachers on text that they know gained 0.35 to 1.04 of that (0.35: 4.9 M
parameters, trained on stories, reading worded sums); signals at unrelated ids 0.00 to 0.02. The limits lie between.

But a confident teacher also gains nothing on text of which it knows nothing (stories models on hexadecimal digits:
-0.02 to 0.00), and then often repeats the token that it reads, which looks like a shift by one. So an error needs a
proof that the teacher knows the text: its gain at its own tokens, or a place at which the signal does fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.view import marked
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.pair.measures import (
    MAX_ELEMENTS,
    Measures,
    SignalRow,
    Tested,
    measure_signal,
    signal_row,
    tokens_test,
)
from distillab.doctor.pair.subject import (
    PairSubject,
    ReadRows,
    affordable_tokens,
    evaluating,
    logits_of,
    read_rows,
    scored,
)
from distillab.errors import DataError
from distillab.pairing.token_bytes import token_meanings
from distillab.records import Finding

MIN_POSITIONS = 64
MIN_ROWS = 8
MIN_CLAIMS_NATS = 0.5
UNRELATED_SHARE = 0.1
# three standard deviations of the shuffled means: a lucky draw does not make a signal unrelated
_SPREADS = 3.0
# a test that could not separate the whole effect from none gives no verdict
_POWER_SPREADS = 10.0
_SURE_P = 0.01
# read so many positions later, a signal is compared with the token that the teacher has just read
_REPEATS = 1
_AS_GOOD_AS_OWN = 0.7
_MIN_COMPARABLE = 4
_NO_EMBEDDING = "they contain ids for which a model has no embedding"
_NAMES_FIT = "The vocabulary fits better than a shuffled one: look at positions and rows first."
_NAMES_FIT_NEITHER = "The vocabulary does not fit either: for the teacher the ids are other tokens."

Reading = Literal["fits", "unrelated", "shifted", "other rows", "no verdict"]
_MOST_TOKENS = 2_048
_SHOWN_CHARACTERS = 160
_SEED = 0


@dataclass(frozen=True)
class Verdict:
    """What a signal is taken for.

    Attributes:
        reference: nats per token that it would have gained if it fitted.
        sure: there is no other reading; False: or the teacher knows nothing of this text.
        reason: why there is no verdict.
    """

    reading: Reading
    reference: float
    sure: bool = False
    reason: str = ""


def verdict(measures: Measures, *, own: Tested | None) -> Verdict:
    """Return the verdict on the signal.

    Args:
        own: the same teacher at its own tokens, on the same text, where that was measured.
    """
    knows = own is not None and own.gain >= MIN_CLAIMS_NATS and own.p <= _SURE_P
    reference = own.gain if own is not None and knows else measures.claims
    lacking = _no_power(measures, reference)
    if lacking is not None:
        return Verdict("no verdict", reference, reason=lacking)
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
            "one that fits; give more rows, or text that the teacher knows"
        )
        return Verdict("no verdict", reference, reason=reason)
    return Verdict("fits", reference)


def _fits_at(measures: Measures, offset: int, tokens: Tested, own: Tested | None) -> bool:
    """Return whether the signal belongs `offset` positions away.

    At ids that it cannot read a teacher repeats them too, but gains less by that than by its own tokens.
    """
    best = measures.at_offset[offset]
    stands_out = best > tokens.gain + max(0.25 * measures.claims, 2 * _SPREADS * tokens.spread)
    as_own = own is None or best > _AS_GOOD_AS_OWN * own.gain
    return stands_out and tokens.gain < 0.5 * best and as_own


def shifted_by(measures: Measures) -> int | None:
    """Return the offset at which the signal gains most; None if no other one can be tried."""
    return max(measures.at_offset, key=lambda offset: measures.at_offset[offset]) if measures.at_offset else None


def judged(measures: Measures, *, scope: str, own: Tested | None, example: tuple[str, ...] = ()) -> Checked:
    """Yield what the measures of a signal show.

    Args:
        scope: how many tokens, and whose.
        own: as for `verdict`.
        example: one of the rows.
    """
    yield Scope(scope)
    found = verdict(measures, own=own)
    if found.reading == "no verdict":
        raise Skipped(found.reason)
    evidence = _seen(measures, own)
    if found.reading == "fits":
        yield Scope(f"{scope}; {evidence[0]}")
    else:
        yield _misplaced(measures, found, evidence).model_copy(update={"example": example})


def _no_power(measures: Measures, reference: float) -> str | None:
    if measures.positions < MIN_POSITIONS:
        return f"{measures.positions} scored tokens are too few for the test; {MIN_POSITIONS} are needed"
    tested = _tested(measures)
    if tested is None:
        return "every row has one scored token, and there is one row: nothing can be shuffled"
    if reference < MIN_CLAIMS_NATS:
        return (
            f"the teacher's signal is nearly the same at every position ({reference:.2f} nats apart), so the "
            "test cannot show to which position it belongs"
        )
    if reference < _POWER_SPREADS * tested.spread:
        return (
            f"the test has no verdict: a fitting signal would gain {reference:.2f} nats per token, and chance alone "
            f"gives ± {tested.spread:.2f} on {measures.positions} tokens"
        )
    return None


def _tested(measures: Measures) -> Tested | None:
    """Return the test that applies: rows with one scored token each can be exchanged, not shuffled."""
    if measures.tokens is not None or measures.other_rows is None:
        return measures.tokens
    return measures.other_rows.tested


def _lost(tested: Tested, reference: float) -> bool:
    return tested.gain + _SPREADS * tested.spread < UNRELATED_SHARE * reference


def _seen(measures: Measures, own: Tested | None) -> tuple[str, ...]:
    lines = []
    if measures.tokens is not None:
        lines.append(f"log-probability of the tokens against signals shuffled within rows: {_as_text(measures.tokens)}")
    lines.append(f"the gain of a correct signal with this confidence: {measures.claims:.2f} nats")
    if own is not None:
        lines.append(f"this teacher's gain at its own tokens on the same text: {own.gain:.2f} nats")
    if measures.other_rows is not None:
        lines.append(f"against signals of other rows at the same place: {_as_text(measures.other_rows.tested)}")
    if measures.names is not None:
        lines.append(f"against a shuffled vocabulary: {_as_text(measures.names)}")
    if measures.kl is not None:
        lines.append(f"KL(teacher ‖ student) against signals shuffled within rows: {_as_text(measures.kl)}")
    if measures.agreement is not None:
        tested = measures.agreement
        lines.append(
            f"same top-1 token as the student: {tested.mean:.1%}, shuffled {tested.shuffled:.1%} (p = {tested.p:.2g})"
        )
    offset = shifted_by(measures)
    if offset is not None:
        lines.append(f"read at another position, best {offset:+d}: gain {measures.at_offset[offset]:.2f} nats")
    return tuple(lines)


def _as_text(tested: Tested) -> str:
    return (
        f"gain {tested.gain:.2f} ± {tested.spread:.2f} nats per token (p = {tested.p:.2g}, {tested.positions:,} tokens)"
    )


def _misplaced(measures: Measures, found: Verdict, evidence: tuple[str, ...]) -> Finding:
    """Return the finding of a signal that belongs elsewhere, or nowhere."""
    if found.reading == "shifted":
        offset = f"{shifted_by(measures):+d}"
        return from_page(
            "teacher-signal-shifted", *evidence, case="sure" if found.sure else "likely", words={"offset": offset}
        )
    if found.reading == "unrelated":
        knows_names = measures.names is not None and measures.names.p <= 0.01 and measures.names.gain > 0.5
        vocabulary = _NAMES_FIT if knows_names else _NAMES_FIT_NEITHER
        return from_page(
            "teacher-signal-unrelated",
            *evidence,
            case="sure" if found.sure else "likely",
            words={"vocabulary": vocabulary},
        )
    rows = measures.other_rows
    assert rows is not None
    example = None
    if found.sure and rows.example is not None:
        row, signal = rows.example
        example = f"e.g. the signal of examined row {row} (counted from 0) is stored at row {signal}"
    return from_page(
        "teacher-signal-of-other-rows",
        *evidence,
        f"rows whose tokens another row's signal fits: {rows.fits_elsewhere} of {rows.comparable}",
        example,
        case="sure" if found.sure else "likely",
    )


@check("alignment")
def check_alignment(subject: PairSubject) -> Checked:
    """Run the teacher on rows as a loss by id would, and test the signal by permutation.

    Where ids are unrelated and nothing compares by them, the teacher reads its own tokens: are its weights
    those of its tokenizer?
    """
    yield Scope("the teacher's logits at the student's tokens")
    teacher = subject.running_teacher
    by_index = subject.same_ids or subject.compares_by_index
    reader = subject.student if by_index else subject.teacher
    # an untrained student's logits show nothing, and at other tokens it has none
    student = subject.student_model if by_index and not subject.student_is_random else None
    what = "the teacher's logits at " + ("the student's tokens" if by_index else "its own tokens")
    yield Scope(what)
    try:
        rows, read = _signals(reader, subject.examples, teacher, student)
        own = None
        if by_index and not subject.same_ids and rows:
            own = tokens_test(_signals(subject.teacher, read.examples, teacher, None)[0], seed=_SEED)
    except DataError as error:
        raise Skipped(f"{error.rule} {'; '.join(error.facts)}") from error
    if not rows and read.unreadable:
        raise Skipped(f"none of {read.unreadable} rows can be read: {_NO_EMBEDDING}")
    if not rows:
        raise Skipped("no row has a scored token")
    measures = measure_signal(rows, seed=_SEED)
    left_out = f"; {read.unreadable} rows left out: {_NO_EMBEDDING}" if read.unreadable else ""
    scope = f"{what}{left_out}: {measures.positions:,} scored tokens of {len(rows)} rows"
    shown = marked(read.rows[0], token_meanings(reader.tokenizer))
    cut = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + " …"
    yield from judged(measures, scope=scope, own=own, example=(cut,))


def _signals(
    reader: Reader, examples: Sequence[Example], teacher: PreTrainedModel, student: PreTrainedModel | None
) -> tuple[list[SignalRow], ReadRows]:
    most = min(_MOST_TOKENS, affordable_tokens(teacher, student))
    read = read_rows(reader, examples, teacher, student, most_tokens=most)
    found: list[SignalRow] = []
    elements = MAX_ELEMENTS
    for row in read.rows:
        if found and elements < found[-1].teacher_logp.shape[1]:
            break
        with evaluating(teacher):
            teacher_logits = logits_of(teacher, reader, row)
        width = teacher_logits.shape[1]
        places = scored(row)
        student_logits = None
        if student is not None:
            with evaluating(student):
                student_logits = logits_of(student, reader, row)
            width = min(width, student_logits.shape[1])
        ids = row.input_ids[places.numpy()]
        places = places[ids < width][: max(1, elements // width)]
        elements -= len(places) * width
        if not len(places):
            continue
        found.append(
            signal_row(
                places,
                places.new_tensor(row.input_ids[places.numpy()].tolist()),
                teacher_logits[places - 1],
                None if student_logits is None else student_logits[places - 1],
            )
        )
    return found, read
