"""Are the labels the tokens of the same row, and where they belong?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillab.doctor.batch.label_offset import Placement, Shifts
from distillab.doctor.batch.rows import BatchRow
from distillab.doctor.batch.show import token_names
from distillab.doctor.batch.tokens import TokenFacts
from distillab.records import CheckResult, Finding

CHECK_ID = "labels"
_SHOWN = 6
_FEW_TOKENS = 8
_MOVED = ("ahead", "in_place", "behind", "far", "other_row")


def check_labels(
    rows: Sequence[BatchRow],
    placed: Sequence[Placement],
    facts: TokenFacts,
    *,
    shifts: Shifts | None,
    expected: int,
    ignore_index: int,
) -> CheckResult:
    """Compare the labels with the inputs.

    Args:
        rows, placed: of the same order.
        shifts: as the caller said it; None: nobody said.
        expected: the offset at which labels were expected.
    """
    compared = sum(placement.compared for placement in placed)
    scope = f"{len(rows):,} rows, {compared:,} labels compared with the inputs"
    if not compared:
        return CheckResult(check=CHECK_ID, scope=scope, skipped="no label is scored")
    denoising = sum(placement.kind == "denoising" for placement in placed)
    if denoising:
        found = _masked_language(rows, placed, facts, expected, ignore_index)
        return CheckResult(check=CHECK_ID, scope=scope, findings=(found,))
    groups: dict[str, list[int]] = {}
    for number, placement in enumerate(placed):
        groups.setdefault(_group(placement, expected), []).append(number)
    unplaced = _explained_by_moved(groups)
    findings = []
    for group, numbers in groups.items():
        if group == "good" or group in unplaced:
            continue
        evidence, example = _evidence(rows, placed, numbers, facts, expected, ignore_index)
        if unplaced and group in _MOVED:
            more = sum(len(groups[name]) for name in unplaced)
            evidence = (
                *evidence,
                f"{more:,} further rows whose labels are not the inputs either, and cannot be placed",
            )
        finding = _finding(group, [placed[number] for number in numbers], facts, shifts, expected, evidence, example)
        findings.append(finding)
    return CheckResult(check=CHECK_ID, scope=scope, findings=tuple(findings))


def _group(placement: Placement, expected: int) -> str:
    if placement.kind in ("agrees", "nothing_scored", "denoising"):
        return "good"
    if placement.kind != "moved":
        return placement.kind
    if placement.offset == expected + 1:
        return "ahead"
    if placement.offset == 0:
        return "in_place"
    if placement.offset == -1:
        return "behind"
    return "far"


def _explained_by_moved(groups: dict[str, list[int]]) -> frozenset[str]:
    """Groups of rows that cannot be placed, in a batch whose other rows show where labels went: that explains them."""
    moved = sum(len(numbers) for group, numbers in groups.items() if group in _MOVED)
    lost = {group: numbers for group, numbers in groups.items() if group in ("unrelated", "partly")}
    return frozenset(lost) if moved > sum(map(len, lost.values())) else frozenset()


def _evidence(
    rows: Sequence[BatchRow],
    placed: Sequence[Placement],
    numbers: Sequence[int],
    facts: TokenFacts,
    expected: int,
    ignore_index: int,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    chosen = [placed[number] for number in numbers]
    total = sum(placement.compared for placement in chosen)
    equal = sum(round(placement.agreement * placement.compared) for placement in chosen)
    evidence = [
        f"{len(numbers):,} of {len(rows):,} rows",
        f"labels that are the input token where they should be: {equal:,} of {total:,} ({equal / total:.1%})",
    ]
    offsets = sorted({placement.offset for placement in chosen if placement.kind == "moved"})
    if offsets:
        listed = ", ".join(f"{offset:+d}" for offset in offsets[:6]) + (", …" if len(offsets) > 6 else "")
        evidence.append(f"labels at position t are the inputs at position t{listed}")
    row, placement = rows[numbers[0]], chosen[0]
    if placement.other is not None:
        evidence.append(f"the labels of {row.origin} are the inputs of {rows[placement.other].origin}")
    places = np.flatnonzero(row.labels != ignore_index)
    wrong = places[places + expected < len(row.ids)]
    wrong = wrong[row.labels[wrong] != row.ids[wrong + expected]][:_SHOWN]
    inputs, labels = token_names(row.ids[wrong], facts), token_names(row.labels[wrong], facts)
    example = [f"{row.origin}:"]
    example += [
        f"  position {at}: input {one!r}, label {two!r}"
        for at, one, two in zip(wrong.tolist(), inputs, labels, strict=True)
    ]
    example.append(f"  the scored labels read: {facts.text(row.labels[places])[:200]!r}")
    example.append(f"  the inputs there read:  {facts.text(row.ids[places])[:200]!r}")
    return tuple(evidence), tuple(example)


def _masked_language(
    rows: Sequence[BatchRow], placed: Sequence[Placement], facts: TokenFacts, expected: int, ignore_index: int
) -> Finding:
    numbers = [number for number, placement in enumerate(placed) if placement.kind == "denoising"]
    evidence, example = _evidence(rows, placed, numbers, facts, expected, ignore_index)
    return Finding(
        id="labels-not-inputs",
        severity="warning",
        title="The scored tokens are hidden from the model, as for a masked language model.",
        evidence=(*evidence, "the inputs that differ from their labels are mostly one and the same token"),
        example=example,
        explanation="A masked language model fills in what was hidden, with the text on both sides. A causal model "
        "reads the mask token instead of the text, and is asked about a few of the tokens alone: it learns to write "
        "from a text with holes that it never meets again. For an encoder this is what is meant, and it is not "
        "examined.",
        fix=(
            "transformers: DataCollatorForLanguageModeling(tokenizer, mlm=False); mlm=True is its default",
            "labels = input_ids, with -100 where nothing is scored",
        ),
    )


def _finding(
    group: str,
    placed: Sequence[Placement],
    facts: TokenFacts,
    shifts: Shifts | None,
    expected: int,
    evidence: tuple[str, ...],
    example: tuple[str, ...],
) -> Finding:
    if group == "ahead":
        return Finding(
            id="labels-shifted-twice",
            severity="error",
            title="The labels are shifted in the batch already: one time more than they should be.",
            evidence=(*evidence, "it was not said whether anything shifts them later") if shifts is None else evidence,
            example=example,
            explanation="With the shift that follows, the model is trained to predict the token after the next one. "
            "transformers' models, and the trainers built on them, shift the labels themselves; only a loop that "
            "compares logits and labels position by position may be given shifted ones.",
            fix=(
                "where a transformers model computes the loss: labels = input_ids.clone(), with -100 where nothing "
                "is scored, and no shift in the data",
                "where your own loop compares them without a shift, nothing is wrong: say --shifts batch",
            ),
        )
    if group == "in_place":
        return Finding(
            id="labels-not-shifted",
            severity="error",
            title="The labels are the inputs themselves, and nothing shifts them.",
            evidence=evidence,
            example=example,
            explanation="The model is trained to repeat the token that it has just read. The loss falls to nothing "
            "within some hundred steps, and the model has learned to copy.",
            fix=(
                "compare logits[:, :-1] with labels[:, 1:] in the loss",
                "if the model or the loss shifts after all, nothing is wrong: say --shifts model",
            ),
        )
    if group == "behind":
        return Finding(
            id="labels-shifted-wrong-way",
            severity="error",
            title="The labels are shifted the wrong way.",
            evidence=evidence,
            example=example,
            explanation="After the shift of the model the label of a position is the token that stands there, so the "
            "model learns to copy what it reads; the loss falls to nothing and the model cannot write."
            if expected == 0
            else "Every position is asked for the token before it, which the model has read: the loss falls to nothing "
            "and the model cannot write.",
            fix=(
                "leave the labels in place: labels = input_ids.clone(), with -100 where nothing is scored"
                if expected == 0
                else "labels[t] = input_ids[t + 1]: torch.roll(input_ids, -1, dims=1), with -100 at the last position",
            ),
        )
    if group == "far":
        return Finding(
            id="labels-misaligned",
            severity="error",
            title="The labels are the row's own tokens, but stand some positions away from them.",
            evidence=evidence,
            example=example,
            explanation="Every label is scored against the wrong context. The usual cause is that inputs and labels "
            "are padded on different sides, or that one of them was cut or begun with one token more.",
            fix=(
                "pad input_ids, attention_mask and labels on the same side, in one function",
                "cut input_ids and labels at the same place",
            ),
        )
    if group == "other_row":
        return Finding(
            id="labels-of-other-rows",
            severity="error",
            title="The labels are the tokens of another row of the batch.",
            evidence=evidence,
            example=example,
            explanation="Inputs and labels were ordered differently (shuffled or sorted apart), so the model learns "
            "answers to other prompts.",
            fix=("keep inputs and labels of a row in one object until they are padded",),
        )
    total = sum(placement.compared for placement in placed)
    agreement = sum(placement.agreement * placement.compared for placement in placed) / total
    if group == "unrelated" and agreement <= 0.2 and total >= _FEW_TOKENS:
        return Finding(
            id="answer-at-prompt-positions",
            severity="warning" if facts.for_encoders else "error",
            title="The labels are another text than the inputs: the answer is predicted at the prompt's positions.",
            evidence=(*evidence, "no shift of the labels makes them the inputs"),
            example=example,
            explanation="A causal model learns from one sequence [prompt, answer]: it reads the tokens up to t and "
            "predicts the token at t + 1. Here the n-th token of one text is predicted from the n-th token of another, "
            "and there is nothing in it to be learned but which tokens are frequent.",
            fix=(
                "input_ids = prompt + answer + end of text, in one sequence",
                "labels = input_ids, with -100 at every position of the prompt and of the padding",
                "if this is an encoder-decoder model, nothing of this applies: only causal models are examined",
            ),
        )
    return Finding(
        id="labels-not-inputs",
        severity="warning",
        title="Some labels are not the tokens that the model reads.",
        evidence=evidence,
        example=example,
        explanation="After a token that is predicted wrongly the model reads another one than it was taught, which is "
        "meant only where inputs are corrupted on purpose. Else inputs and labels come from two versions of the text: "
        "two answers, two templates, or two tokenizations.",
        fix=("make the labels from the very input_ids that the model reads",),
    )
