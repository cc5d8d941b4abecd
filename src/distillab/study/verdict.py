"""The sentences of a study: the headline, and the differences from SFT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from distillab.records import ACCESS_ORDER, AccessLevel, ArmResult, Comparison, Interval

_NAMED = 3
_ACCESS: dict[AccessLevel, str] = {
    "none": "other arms without a teacher",
    "text": "the teacher's answers",
    "top_k": "the teacher's most likely tokens",
    "logits": "the teacher's logits",
    "internals": "the teacher's hidden states or attention",
}


def headline(arms: Sequence[ArmResult]) -> str:
    """Return what each level of access buys, in one sentence: of each level the arm that does best on the answers."""
    real = [arm for arm in arms if arm.shown_failure is None and arm.against_sft is not None]
    levels = product((False, True), ACCESS_ORDER, (False, True))
    best = [_best([a for a in real if (a.across_tokenizers, a.access, a.on_policy) == level]) for level in levels]
    parts = [_bought(*found) for found in best if found is not None]
    if not parts:
        return "No arm of this study has access to a teacher, so it does not show what access buys."
    return f"Beyond SFT, on the data set's answers: {'; '.join(parts)}."


def _best(arms: Sequence[ArmResult]) -> tuple[ArmResult, Comparison, int] | None:
    """Return the arm that does best on the data set's answers, its comparison there, and of how many."""
    known = [(found.difference.mean, arm.name, arm, found) for arm in arms if (found := arm.against("likelihood"))]
    return (*min(known, key=lambda one: one[:2])[2:], len(known)) if known else None


def _bought(arm: ArmResult, answers: Comparison, of: int) -> str:
    """Return `the teacher's logits (NAME) buy 0.085 nats per token, 19 % of the gap, and bring the student …`."""
    where = ", from a teacher with other tokens," if arm.across_tokenizers else ""
    where += " on the student's own answers" if arm.on_policy else ""
    nearness = arm.against("fidelity")
    size, closed = f"{abs(answers.difference.mean):.3f} nats per token", answers.recovered
    words = {
        "better": f"buy {size}" + ("" if closed is None else f", {100 * closed.share:.0f} % of the gap,"),
        "worse": f"cost {size}",
        "open": "make no difference beyond the interval"
        if answers.difference.low is not None
        else "show nothing on so few rows",
    }[answers.difference.outcome]
    if nearness is not None and nearness.recovered is not None:
        share = f"{100 * abs(nearness.recovered.share):.0f} %"
        words += {
            "better": f" and bring the student {share} nearer to the teacher",
            "worse": f" and take the student {share} further from the teacher",
            "open": " and bring the student no nearer to the teacher",
        }[nearness.difference.outcome]
    return f"{_ACCESS[arm.access]}{where} ({arm.name}{f', best of {of}' if of > 1 else ''}) {words.removesuffix(',')}"


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
    return text + "".join(_against_twin(arm) for arm in real if arm.against_twin)


def _against_twin(arm: ArmResult) -> str:
    """Return which of the two won, and in what: ` NAME against TWIN, the same loss on stored answers: better in …`."""
    labelled = [(one.label.replace(", own text", " on own text"), one) for one in arm.against_twin]
    parts = [_won(label, one) for label, one in labelled if one.difference.outcome != "open"]
    unclear = [(label, one.difference) for label, one in labelled if one.difference.outcome == "open"]
    if unclear:
        names = ", ".join(label for label, _ in unclear)
        parts.append(f"no significant difference in {names}{_why(found for _, found in unclear)}")
    return f" {arm.name} against {arm.twin}, the same loss on stored answers: {'; '.join(parts)}."


def _won(label: str, one: Comparison) -> str:
    """Return `better in held-out by 0.014 nats per token (95 % interval -0.026 to -0.002)`."""
    found, unit = one.difference, one.unit.replace("nats/token", "nats per token")
    return f"{found.outcome} in {label} by {abs(found.mean):.3f} {unit} ({_interval(found)})"


def _interval(found: Interval) -> str:
    return f"95 % interval {found.low:+.3f} to {found.high:+.3f}"


def _why(unclear: Iterable[Interval]) -> str:
    """Return why some differences are not significant, where it is known; else ""."""
    return " (too few rows for an interval)" if any(found.low is None for found in unclear) else ""


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
        names = _names([name for _, name in unclear])
        parts.append(f"no significant difference from SFT: {names}{_why(found for found, _ in unclear)}")
    return "; ".join(parts)


def _claim(word: str, found: Sequence[tuple[Interval, str]]) -> str:
    (difference, name), rest = found[0], [name for _, name in found[1:]]
    text = f"{name} is {word} by {abs(difference.mean):.3f} nats per token ({_interval(difference)})"
    return f"{text}, {_names(rest)} by less" if rest else text


def _names(names: Sequence[str]) -> str:
    """Return all of a few names, the number of many."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} more"
