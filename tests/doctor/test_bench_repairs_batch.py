"""What the bench's unseen batches have shown to be missed, or called an error wrongly, and what looks much alike."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from bench.doctor.case import Place
from bench.doctor.rows import IGNORED, Rows, batches, padded, samples, scored, sums, tasks, tokenizer_of
from transformers import DataCollatorForLanguageModeling

from distillab.doctor import audit_batch

pytestmark = pytest.mark.usefixtures("read_once")


@pytest.fixture
def place(materials: Path, tmp_path: Path) -> Place:
    return Place(materials, tmp_path)


def _said(given: object, tokenizer, **options: object) -> dict[str, str]:
    options = {"shifts": "model", "learns": "answers"} | options
    return {f.id: f.severity for one in audit_batch(given, tokenizer, **options) for f in one.findings}


def test_a_mask_that_hides_the_prompt(place: Place) -> None:
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    for side in ("right", "left"):
        made = batches(scored(samples(tokenizer, sums(place, 12))), 0, side=side)
        assert _said(made, tokenizer) == {}
        for one in made:
            one["attention_mask"] = (one["labels"] != IGNORED).long()
            one["position_ids"] = (one["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        assert _said(made, tokenizer) == {"tokens-hidden": "warning"}
        moved = [
            {
                "input_ids": one["input_ids"][:, :-1],
                "labels": one["labels"][:, 1:],
                "attention_mask": (one["labels"][:, 1:] != IGNORED).long(),
            }
            for one in made
        ]
        assert _said(moved, tokenizer, shifts="batch") == {"tokens-hidden": "warning"}


def test_a_mask_that_hides_the_answer(place: Place) -> None:
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    made = batches(scored(samples(tokenizer, sums(place, 12))), 0)
    for one in made:
        one["attention_mask"] = one["attention_mask"] * (one["labels"] == IGNORED)
    assert _said(made, tokenizer) == {"tokens-hidden": "warning"}


def test_padding_with_an_ordinary_token_is_padding(place: Place) -> None:
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    for side in ("right", "left"):
        made = batches(scored(samples(tokenizer, tasks(place, 12))), 11, side=side)
        assert _said(made, tokenizer) == {}


def test_a_begin_token_before_the_answer_that_is_not_scored(place: Place) -> None:
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    made = samples(tokenizer, tasks(place, 8))
    rows: Rows = [([*one.prompt, 1, *one.answer], [IGNORED] * (len(one.prompt) + 1) + one.answer) for one in made]
    assert _said(batches(rows, 0), tokenizer) == {"double-bos": "warning"}
    moved = [([*ids], [*labels[1:], IGNORED]) for ids, labels in rows]
    assert _said(batches(moved, 0), tokenizer, shifts="batch") == {"double-bos": "warning"}


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("begin_scored", [True, False])
def test_samples_that_begin_in_a_row_are_packed(place: Place, ended: bool, begin_scored: bool) -> None:
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows: Rows = []
    made = samples(tokenizer, tasks(place, 8), eos=ended)
    for one, two in zip(made[::2], made[1::2], strict=True):
        labels = [IGNORED] * len(two.prompt) + two.answer
        labels[0] = two.prompt[0] if begin_scored else IGNORED
        rows.append((one.ids + two.ids, one.labels + labels))
    found = _said(batches(rows, 0), tokenizer)
    assert "packed-without-boundaries" in found
    assert "double-bos" not in found


def test_an_end_marker_in_pieces(place: Place) -> None:
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    pairs = sums(place, 12)

    def found(pairs: list[tuple[str, str]], *, eos: bool) -> dict[str, str]:
        return _said(batches(scored(samples(tokenizer, pairs, eos=eos)), 50257), tokenizer)

    marked = [(prompt, f"{answer}</s>\n") for prompt, answer in pairs]
    assert found(marked, eos=False) == {"markers-in-pieces": "warning"}
    assert found(marked, eos=True) == {"markers-in-pieces": "warning"}
    # an answer or two that are about such markers; markers inside of the text; the tokenizer's own end token
    assert found([*marked[:2], *pairs[2:]], eos=True) == {}
    assert found([(prompt, f"<s>{answer}</s> is how it ends.") for prompt, answer in pairs], eos=True) == {}
    assert found([(prompt, f"{answer}<|endoftext|>") for prompt, answer in pairs], eos=False) == {}


@pytest.mark.parametrize("mlm", [True, False])
def test_the_collator_with_and_without_a_mask(place: Place, mlm: bool) -> None:
    tokenizer = copy.deepcopy(tokenizer_of(place, "tinyllama-1.1b", pad="<unk>"))
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=mlm, seed=0)
    given = collate([{"input_ids": one.ids} for one in samples(tokenizer, tasks(place, 8))])
    found = _said(given, tokenizer, learns="text")
    assert ("labels-not-inputs" in found) == mlm
    assert "error" not in found.values()


@pytest.mark.parametrize(
    ("begin", "absolute", "found"),
    [(1, True, True), (0, True, False), (1, None, False), (512, True, False), (None, True, False)],
)
def test_where_positions_begin(place: Place, begin: int | None, absolute: bool | None, found: bool) -> None:
    """Pieces of long texts begin further on, each at its own place (None) or all at one."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    made = batches(scored(samples(tokenizer, tasks(place, 8))), 50257, size=1)
    for number, one in enumerate(made):
        one["position_ids"] = one["attention_mask"].cumsum(-1) - 1 + (number if begin is None else begin)
    ids = _said(made, tokenizer, absolute_positions=absolute)
    assert ("positions-wrong" in ids) == found
    assert "error" not in ids.values()


def test_rows_of_the_longest_length_that_ended_by_themselves(place: Place) -> None:
    """Prompts that were cut at the front to keep the answer whole, and answers that end in a number or a word."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    every = samples(tokenizer, sums(place, 60), eos=False)
    made = [one for one in every if len(one.answer) <= 90]
    end = [tokenizer.eos_token_id]
    assert tokenizer.pad_token_id is not None

    def found(rows: Rows) -> set[str]:
        return set(_said(padded(rows, tokenizer.pad_token_id), tokenizer))

    assert "answers-truncated" in found([(one.ids[:127] + end, one.labels[:127] + end) for one in made])
    in_sentences = [one for one in every if len(one.prompt) <= 90]
    assert "answers-truncated" in found([(one.ids[:127] + end, one.labels[:127] + end) for one in in_sentences])
    assert "answers-truncated" not in found([(one.ids[-127:] + end, one.labels[-127:] + end) for one in made])
    assert "answers-truncated" not in found([(one.ids + end, one.labels + end) for one in made])


def test_rows_that_lost_their_beginning(place: Place) -> None:
    tokenizer = tokenizer_of(place, "tinyllama-1.1b")
    ids = tokenizer(" ".join(f"word {n}" for n in range(40))).input_ids
    short = (ids[:12], ids[:12])
    (found,) = (
        finding
        for one in audit_batch(padded([short, (ids[1:21], ids[1:21]), (ids[5:25], ids[5:25])], 0), tokenizer)
        for finding in one.findings
        if finding.id == "bos-missing"
    )
    assert found.title == "The longest rows have lost their beginning."
    assert "bos-missing" not in _said(padded([short, (ids[:20], ids[:20]), (ids[:20], ids[:20])], 0), tokenizer)
