"""The method to begin with: the first of the measured order for which a pair has enough in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pairing.conftest import Wrap
from tokenizers import Tokenizer

from distillab.config.methods import METHODS
from distillab.pairing import recommendation
from distillab.pairing.admission import admit, pair_check
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.loading import LoadedTokenizer
from distillab.pairing.recommendation import (
    ORDER_ACROSS_TOKENIZERS,
    cross_tokenizer_methods,
    order_across_tokenizers,
    recommend,
)
from distillab.records import DataOverlap, SideBySide, TokenizerContract, TokenizerInfo

ROOT = Path(__file__).resolve().parents[2]


def contract(
    *,
    verdict: str = "different",
    known: float = 0.9,
    teacher: float = 1.0,
    student: float = 1.0,
    lost: int = 0,
) -> TokenizerContract:
    """A pair; `known` of the teacher's tokens in 100 rows of text are the student's."""
    data = DataOverlap(
        source="rows",
        rows=100,
        rows_not_comparable=lost,
        teacher_tokens=5000,
        student_tokens=6000,
        teacher_boundaries_shared=teacher,
        student_boundaries_shared=student,
        teacher_tokens_identical=0.5,
        student_tokens_identical=0.5,
        teacher_tokens_known=known,
        equal_ids_by_position=0.0,
    )
    side = TokenizerInfo(
        name="one", family="BPE", tokens=1000, logits_width=None, roles={}, fingerprint="f", chat_template_sha256=None
    )
    return TokenizerContract(
        verdict=verdict,
        reason="x",
        teacher=side,
        student=side,
        equal_ids=0,
        equal_strings=0,
        equal_bytes=10,
        shared_width=0 if verdict == "different" else 1000,
        example=SideBySide(text="a", teacher_ids=(), student_ids=(), teacher_tokens=(), student_tokens=()),
        data=data,
    )


def test_the_order_has_every_method_for_two_tokenizers_and_those_they_are_held_against() -> None:
    aligned = [name for name, method in METHODS.items() if method.tokens == "aligned"]
    assert sorted(ORDER_ACROSS_TOKENIZERS) == sorted([*aligned, "seqkd", "sft"])


@pytest.mark.parametrize(
    "place",
    [
        "ACROSS_TOKENIZERS_MEASURED_IN",
        "WITH_SAME_TOKENS_MEASURED_IN",
        "PRETRAINED_MEASURED_IN",
        "LONGER_TOKENS_MEASURED_IN",
    ],
)
def test_the_orders_name_a_section_that_is_there(place: str) -> None:
    page, anchor = getattr(recommendation, place).split("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize(
    ("pair", "method", "said"),
    [
        # what is measured on text decides, not the vocabularies
        (contract(known=0.5, student=0.5), "vocabulary_projection", "50.0% of the teacher's tokens in rows"),
        (contract(known=0.49), "span_hidden_states", "only 49.0% of the teacher's tokens in rows"),
        # tokens are matched where the student predicts
        (contract(known=0.9, student=0.4), "span_hidden_states", "only 40.0% of the student's boundaries"),
        # the student's tokens are longer
        (contract(known=0.9, teacher=0.4), "measured_transport", "100.0% of the student's boundaries"),
        (contract(known=0.9, teacher=0.59), "measured_transport", "only 59.0% of the teacher's boundaries are the"),
        (contract(known=0.9, teacher=0.6), "vocabulary_projection", "100.0% of the student's boundaries"),
        (contract(known=0.9, teacher=0.55, student=0.5), "vocabulary_projection", "50.0% of the student's boundaries"),
        (contract(known=0.49), "span_hidden_states", "a pretrained student gained nothing from it on three such pairs"),
        # spans end where the side that cuts less often does
        (contract(known=0.1, teacher=0.6, student=0.7), "span_hidden_states", "70.0% of the student's boundaries"),
        (contract(known=0.1, teacher=0.6, student=0.4), "span_hidden_states", "60.0% of the teacher's boundaries"),
        (contract(known=0.9, teacher=0.4, student=0.4), "seqkd", "only 40.0% of the student's boundaries"),
        (contract(known=0.9, lost=51), "seqkd", "51 of 100 rows of rows are not the same bytes"),
        (contract(known=0.9, lost=50), "vocabulary_projection", "90.0%"),
        (contract(verdict="extended"), "logits", "1,000 ids mean the same"),
        (contract(verdict="identical", known=0.0), "logits", "1,000 ids mean the same"),
    ],
)
def test_what_is_recommended_and_why(pair: TokenizerContract, method: str, said: str) -> None:
    found = recommend(pair)
    assert found.method == method
    assert said in "\n".join(found.because)


def test_every_method_that_was_passed_over_is_named_once_with_its_figure() -> None:
    because = recommend(contract(known=0.2, teacher=0.4, student=0.3)).because
    lines = [line for line in because if "measured better, but" in line]
    assert [line.split(":")[0].split(", ") for line in lines] == [
        ["vocabulary_projection", "merged_spans"],
        ["span_hidden_states", "contrastive"],
    ]
    assert "20.0%" in lines[0] and "40.0%" in lines[1]


def test_ways_out_name_what_fits() -> None:
    assert cross_tokenizer_methods(contract(known=0.2))[0] == "span_hidden_states"
    assert "merged_spans" not in cross_tokenizer_methods(contract(known=0.2))
    assert pair_check(contract(known=0.9, lost=100)).ways_out[2].startswith("path C: none here: ")


SHARE = st.floats(0, 1)


@settings(max_examples=100, deadline=None)
@given(
    verdict=st.sampled_from(["identical", "padded", "extended", "different"]),
    known=SHARE,
    teacher=SHARE,
    student=SHARE,
    lost=st.integers(0, 100),
)
def test_what_is_recommended_is_valid_and_never_worse_than_fine_tuning(
    verdict: str, known: float, teacher: float, student: float, lost: int
) -> None:
    pair = contract(verdict=verdict, known=known, teacher=teacher, student=student, lost=lost)
    name = recommend(pair).method
    assert admit(pair, name, METHODS[name]).admitted
    if verdict == "different":
        order = order_across_tokenizers(pair)
        assert sorted(order) == sorted(ORDER_ACROSS_TOKENIZERS) and order.index(name) <= order.index("sft")
        fitting = cross_tokenizer_methods(pair)
        assert (fitting[0] if fitting else "seqkd") == name


def test_rare_words_of_a_large_vocabulary_count_as_little_as_they_are_used(
    wrap: Wrap, real: Callable[[str], LoadedTokenizer]
) -> None:
    """Tokens under other ids, beside four times as many that no text here holds: what is used is shared."""
    model = json.loads(real("tok512").tokenizer.backend_tokenizer.to_str())
    vocabulary = model["model"]["vocab"]
    rare = [f"rare{number}word" for number in range(4 * len(vocabulary))]
    model["model"]["vocab"] = {word: number for number, word in enumerate([*rare, *vocabulary])}
    for token in model["added_tokens"]:
        token["id"] = model["model"]["vocab"][token["content"]]
    teacher = wrap(Tokenizer.from_str(json.dumps(model)), "large")
    found = compare_tokenizers(teacher, real("tok512"), teacher_width=None, student_width=None)
    assert found.verdict == "different" and found.equal_bytes / found.teacher.tokens < 0.21
    assert recommend(found).method == "vocabulary_projection"
    assert recommend(found).because[0].startswith("100.0% of the teacher's tokens in the sample that ships with")
    # what the user gives is measured in its place
    given = compare_tokenizers(
        teacher, real("tok512"), teacher_width=None, student_width=None, texts=["Yes."], source="mine"
    )
    assert given.data.source == "mine" and given.data.rows == 1
