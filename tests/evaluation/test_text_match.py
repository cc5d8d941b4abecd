"""ROUGE-L in every script, values as numbers, patterns that never end; on real labels and real answers."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer

from distillab.config.evaluation import EvaluationConfig
from distillab.data.segments import words
from distillab.errors import ConfigError
from distillab.evaluation.rouge import UnicodeWords
from distillab.evaluation.text_match import judge
from distillab.evaluation.values import captured, number, same_value
from distillab.records import Metric

_SAME = {
    "english": "The sum of three and four is seven.",
    "chinese": "三加四等于七。",
    "japanese": "東京は日本の首都です。コーヒー",
    "russian": "Столица Франции — Париж.",
    "arabic": "عاصمة فرنسا هي باريس",
    "hindi": "भारत की राजधानी नई दिल्ली है",
    "thai": "สวัสดีครับ",
    "korean": "서울은 한국의 수도입니다.",
    "greek": "Η Αθήνα είναι η πρωτεύουσα",
    "german": "Die größte Stadt heißt Köln, später Nürnberg.",
    "vietnamese": "Thủ đô của Việt Nam là Hà Nội",
    "khmer": "ភាសាខ្មែរ",
    "fullwidth": "１２３",
    "punctuation": "!!! ???",
    "emoji": "👩‍👩‍👧‍👦 👍🏽",
}


def _metrics(answer: str, reference: str, **settings: str) -> dict[str, Metric]:
    given: dict[str, str | None] = {"value_pattern": None, **settings}
    found = judge([answer], [reference], stopped=[True], lengths=[1], **given)  # type: ignore[arg-type]
    return {metric.name: metric for metric in found.metrics}


@pytest.mark.parametrize("name", _SAME)
def test_rouge_of_a_text_with_itself_is_one_in_every_script(name: str) -> None:
    assert _metrics(_SAME[name], _SAME[name])["rouge_l"].value == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("größe", "grüße", 0.0),
        ("Müller", "M ller", 0.0),
        # 3 of 7 characters in common, in order: 等于 and 7 of 三加四等于 7 (6 tokens) and 五减二等于 7
        ("三加四等于 7", "五减二等于 7", 0.5),
        ("东京", "北京", 0.5),
        ("Москва", "Париж", 0.0),
        ("é", "e\u0301", 1.0),
        ("...", "yes", 0.0),
    ],
)
def test_other_words_are_other_words_in_every_script(answer: str, reference: str, expected: float) -> None:
    assert _metrics(answer, reference)["rouge_l"].value == pytest.approx(expected)


def test_english_is_exactly_what_the_package_makes_of_it(materials: Path) -> None:
    """Real answers of people, against rouge_score with its own tokenizer and stemmer."""
    texts: list[str] = []
    for file in sorted((materials / "text").glob("*/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines()[:250]:
            texts += [value for value in json.loads(line).values() if isinstance(value, str)]
    # a letter beyond ASCII is what the two differ in; other signs are spaces to both
    english = [text for text in texts if re.search("[a-zA-Z0-9]", text) and not re.search(r"[^\W_]", _not_ascii(text))]
    assert len(english) > 1000
    theirs = RougeScorer(["rougeL"], use_stemmer=True)
    tokens = UnicodeWords()
    for text in english:
        assert tokens.tokenize(text) == theirs._tokenizer.tokenize(text)
    for left, right in pairwise(english[:200]):
        assert _metrics(left, right)["rouge_l"].value == theirs.score(right, left)["rougeL"].fmeasure


def _not_ascii(text: str) -> str:
    return "".join(letter for letter in text if not letter.isascii())


def test_words_by_hand() -> None:
    assert words("東京タワー 333m, İt's") == ["東", "京", "タ", "ワ", "ー", "333m", "i̇t", "s"]
    assert words("สวัสดี") == ["ส", "วั", "ส", "ดี"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("65,960", "65960"),
        ("65960.00", "65960"),
        ("$65,960.", "65960"),
        ("-$5", "-5"),
        ("−5", "-5"),
        ("**72**", "72"),
        (".5", "0.5"),
        ("...5", "5"),
        ("07", "7"),
        ("１２３", "123"),
        ("5%", "5"),
        ("109,200,000", "109200000"),
    ],
)
def test_a_number_is_read_in_any_writing(text: str, expected: str) -> None:
    assert same_value(text, expected, kind="number")
    assert number(text) == number(expected)


@pytest.mark.parametrize("text", ["1,5", "1,0000", "1,000,00", "12 apples", "3/4", "1e5", "1 000", "", "x", "-"])
def test_what_is_no_number_is_compared_as_text(text: str) -> None:
    assert number(text) is None
    assert same_value(text, text, kind="number")


def test_numbers_that_differ_are_not_the_same() -> None:
    for left, right in [("65,960", "65961"), ("-5", "5"), ("1,5", "15"), ("0.5", "5"), ("-$5", "$5")]:
        assert not same_value(left, right, kind="number")
    assert not same_value("65,960", "65960", kind="text")


def test_the_labels_of_gsm8k_are_the_results_of_their_own_sums(materials: Path) -> None:
    """A label is written with commas, the sum that gives it without: equal as numbers, and by no comma otherwise."""
    with_comma = equal = 0
    for line in (materials / "text" / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)["answer"]
        label = captured(answer, "#### (.+)")
        assert label is not None and number(label) is not None
        sums = re.findall(r"<<[^>]*=([^>]*)>>", answer)
        if "," in label and sums:
            with_comma += 1
            equal += same_value(sums[-1], label, kind="number")
            assert not same_value(sums[-1], label, kind="text")
    # in the other five the last sum is not the answer
    assert (with_comma, equal) == (77, 72)


def test_value_match_takes_the_kind_and_the_record_says_it() -> None:
    answer, label = "so it is 65960. #### 65960", "#### 65,960"
    for kind, expected in (("number", 1.0), ("text", 0.0)):
        metric = _metrics(answer, label, value_pattern="#### (.+)", value_kind=kind)["value_match"]
        assert metric.value == expected and f"compared as {kind}" in metric.meaning
    assert EvaluationConfig().value_kind == "number"
    with pytest.raises(ValidationError):
        EvaluationConfig(value_kind="words")  # type: ignore[arg-type]


def test_a_pattern_that_never_ends_is_stopped() -> None:
    text = "a" * 5000 + "!"
    for pattern in ("(a+)+$", "(a|aa)+$"):
        with pytest.raises(ConfigError, match="takes too long") as stopped:
            captured(text, pattern)
        assert repr(pattern) in str(stopped.value)
