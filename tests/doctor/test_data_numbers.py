"""The measures behind the data checks, against references that share nothing with them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doctor.data_refusals import ANSWERED, REFUSED
from tests.doctor.data_samples import Data, pairs

from distillab.data.encoding import EncodedRow
from distillab.doctor.data import subject as data_subject
from distillab.doctor.data.content import differ, language_of
from distillab.doctor.data.damage import misread
from distillab.doctor.data.entropy import lowest_loss
from distillab.doctor.data.overlap import check_overlap
from distillab.doctor.data.subject import encode_part
from distillab.doctor.data.teacher_answers import loops, refuses
from distillab.doctor.data.words import family_of, marker_in, rendered_by, word_groups

EOS = 99
ROWS = st.lists(
    st.tuples(st.lists(st.integers(1, 2), min_size=1, max_size=2), st.lists(st.integers(3, 5), max_size=3)), min_size=1
)


def row(prompt: list[int], answer: list[int]) -> EncodedRow:
    ids = [0, *prompt, *answer, EOS]
    mask = [False] * (len(prompt) + 1) + [True] * (len(answer) + 1)
    return EncodedRow("k", np.array(ids, dtype=np.int32), np.array(mask), len(prompt) + 1)


def losses(rows: list[EncodedRow], model: dict[tuple[int, ...], dict[int, float]]) -> float:
    """Mean nats a scored token of a table of next-token probabilities."""
    nats = [
        -math.log(model[tuple(one.input_ids[:at].tolist())][int(one.input_ids[at])])
        for one in rows
        for at in np.flatnonzero(one.answer_mask).tolist()
    ]
    return sum(nats) / len(nats)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_lowest_loss_is_that_of_the_best_table_and_no_table_is_below(pairs_, random):
    rows = [row(prompt, answer) for prompt, answer in pairs_]
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for one in rows:
        for at in np.flatnonzero(one.answer_mask).tolist():
            counts.setdefault(tuple(one.input_ids[:at].tolist()), Counter())[int(one.input_ids[at])] += 1
    best = {context: {t: n / own.total() for t, n in own.items()} for context, own in counts.items()}
    floor = lowest_loss(rows)
    assert floor.nats == pytest.approx(losses(rows, best), abs=1e-9)
    other = {}
    for context, own in counts.items():
        weights = {token: random.random() + 1e-3 for token in own}
        other[context] = {token: weight / sum(weights.values()) for token, weight in weights.items()}
    assert losses(rows, other) >= floor.nats - 1e-9
    assert floor.rows == len(rows) and 0 <= floor.openness <= 1 + 1e-9


def test_the_lowest_loss_in_a_worked_case():
    """Two answers, once and three times, to one prompt; another prompt stands once."""
    rows = [row([1], [3]), row([1], [4]), row([1], [4]), row([1], [4]), row([2], [3, 3, 3])]
    floor = lowest_loss(rows)
    nats = -math.log(1 / 4) - 3 * math.log(3 / 4)
    assert floor.nats == pytest.approx(nats / (4 * 2 + 4))
    assert floor.nats_repeated == pytest.approx(nats / 8)
    assert (floor.repeated, floor.contexts, floor.runs) == (4, 2, 5)


def test_turns_are_counted_one_by_one():
    """Both rows give the same first answer, then are asked differently, then the same again: nothing is open."""
    two = [
        EncodedRow("k", np.array([0, 1, 3, 9, ask, 4, 9], np.int32), np.array([0, 0, 1, 1, 0, 1, 1], bool), 5)
        for ask in (1, 2)
    ]
    assert lowest_loss(two).nats == 0
    assert lowest_loss(two).repeated == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["one", "two", "Three", "four,"]), max_size=6), max_size=5), st.integers(1, 3))
def test_word_groups_are_equal_where_words_are(texts, size):
    groups = word_groups([" ".join(words) for words in texts], size)
    plain = [[word.lower().strip(",") for word in words] for words in texts]
    expected = [
        (number, tuple(words[at : at + size]))
        for number, words in enumerate(plain)
        for at in range(len(words) - size + 1)
    ]
    assert groups.texts.tolist() == [number for number, _ in expected]
    names = dict(zip(groups.hashes.tolist(), (group for _, group in expected), strict=True))
    assert len(names) == len({group for _, group in expected})
    assert [names[value] for value in groups.hashes.tolist()] == [group for _, group in expected]
    once = groups.once()
    assert len(once.hashes) == len(set(expected))
    assert {(t, names[h]) for t, h in zip(once.texts.tolist(), once.hashes.tolist(), strict=True)} == set(expected)


WORDS = [f"word{n}" for n in range(400)]


@pytest.mark.parametrize(("kept", "near"), [(1.0, True), (0.9, True), (0.6, False)])
def test_near_copies_are_those_that_share_most_groups(kept, near):
    """Of a text of 200 words a part stands in one training row; another word makes the rows unequal."""
    text = WORDS[:200]
    part = [*text[: round(kept * 200)], *WORDS[200 : 400 - round(kept * 200)], "more"]
    train = pairs([("Ask", " ".join(WORDS[300:])), ("Ask", " ".join(part))])
    held = pairs([("Ask", " ".join(text))], first=10)
    ids = [finding.id for finding in check_overlap(train, held).findings]
    assert ("train-held-out-overlap" in ids) == near


def test_words_of_a_template_are_no_near_copies():
    preamble = " ".join(WORDS[:150])
    train = pairs([(f"{preamble} {' '.join(WORDS[n : n + 12])}", f"answer {n}") for n in range(150, 200)])
    held = pairs([(f"{preamble} {' '.join(WORDS[n : n + 12])}", f"answer {n}") for n in range(300, 320)], first=100)
    assert check_overlap(train, held).findings == ()


@pytest.mark.parametrize("text", ["café", "naïve", "It’s", "“so”", "größer", "señor", "Привет", "λόγος", "漢字", "😀"])
def test_utf8_read_wrongly_is_seen(text):
    assert misread(f"a {text} b") is None
    wrong = f"a {text} b".encode().decode("latin-1")
    encoding, piece = misread(wrong)
    assert encoding == "latin-1" and piece in wrong


@pytest.mark.parametrize(
    "text", ["né\u00a0»", "«\u00a0à\u00a0»", "»Spaß«", "Ñ", "ÁÉÍ", "São Paulo", "NÃO", "à la carte…", "Œ !"]
)
def test_what_looks_like_damage_and_is_not(text):
    assert misread(text) is None


def test_text_in_no_language_is_damaged():
    assert [name for name, text in LANGUAGES.items() if misread(text) or misread(f"«\u00a0{text}\u00a0»")] == []


LANGUAGES = {
    "en": "The answer is that all of the trains leave at the same time and then they meet in the middle.",
    "de": "Die Antwort ist, dass die Züge zur gleichen Zeit abfahren und sich nicht in der Mitte treffen.",
    "fr": "La réponse est que les trains partent à la même heure et se croisent dans le milieu du parcours.",
    "es": "La respuesta es que los trenes salen a la misma hora y se encuentran en el medio del camino.",
    "it": "La risposta è che i treni non partono alla stessa ora e si incontrano nel mezzo della strada.",
    "pt": "A resposta é que os trens não saem na mesma hora e se encontram no meio do caminho para o porto.",
    "nl": "Het antwoord is dat de treinen niet op dezelfde tijd vertrekken en zij zijn er ook bij het station.",
    "pl": "Odpowiedź brzmi, że pociągi wyjeżdżają o tej samej porze i spotykają się w połowie drogi.",
    "tr": "Cevap şu ki trenler aynı saatte kalkıyor ve yolun tam ortasında birbirleriyle karşılaşıyorlar.",
    "vi": "Câu trả lời là các đoàn tàu khởi hành cùng một lúc và gặp nhau ở giữa quãng đường.",
    "ru": "Ответ в том, что поезда отправляются одновременно и встречаются на середине пути",
    "uk": "Відповідь полягає в тому, що потяги вирушають одночасно і зустрічаються на середині шляху",
    "el": "Η απάντηση είναι ότι τα τρένα φεύγουν μαζί και συναντιούνται στη μέση",
    "ar": "الجواب هو أن القطارات تغادر في نفس الوقت وتلتقي في منتصف الطريق",
    "fa": "پاسخ این است که قطارها در یک زمان حرکت می‌کنند و در میانه راه به هم می‌رسند",
    "hi": "उत्तर यह है कि रेलगाड़ियाँ एक ही समय पर चलती हैं और बीच रास्ते में मिलती हैं",
    "zh": "答案是两列火车同时出发",
    "ja": "答えは、二つの列車が同時に出発することです",
    "ko": "답은 두 기차가 동시에 출발한다는 것이다",
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_languages(name):
    assert str(language_of(LANGUAGES[name])) == name
    others = [language_of(text) for other, text in LANGUAGES.items() if other != name]
    assert all(differ(language_of(LANGUAGES[name]), other) for other in others)
    assert not differ(language_of(LANGUAGES[name]), language_of(LANGUAGES[name]))


def test_of_a_short_text_the_script_is_known():
    assert str(language_of("Это текст")) == "Cyrillic script"
    assert differ(language_of("Это текст"), language_of("Some text"))
    assert not differ(language_of("Это текст"), language_of(LANGUAGES["uk"]))


@pytest.mark.parametrize(
    "text", ["42", "#### 72", "x = 3 * y", "ok", "", "20 per 3 per 4 per 5 per 6 per week per day"]
)
def test_what_has_no_language(text):
    language = language_of(text)
    assert language is None or language.language is None


@pytest.mark.parametrize(("language", "text"), [(name, text) for name, texts in REFUSED.items() for text in texts])
def test_refusals(language, text):
    assert refuses(text)
    assert not refuses(f"{ANSWERED[language][0]} {text}"), "a quotation inside of an answer"


@pytest.mark.parametrize("text", [text for texts in ANSWERED.values() for text in texts])
def test_what_begins_like_a_refusal_and_is_none(text):
    assert not refuses(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the cat sat on the mat and " * 8, True),
        ("A good start. " + "ha" * 60, True),
        ("Name | Age\n" + "-" * 80, False),
        ("A list: " + ", ".join(str(n) for n in range(60)), False),
        ("Row, row, row your boat, gently down the stream.", False),
        ("Nothing here stands twice, and every word of it is as new as the one before.", False),
    ],
)
def test_loops(text, said):
    assert loops(text) == said


def test_markers():
    assert marker_in("Hello <|im_end|>") == "<|im_end|>" and family_of("Hello <|im_end|>") == "ChatML"
    assert marker_in("### Response: x") == "### Response:" and family_of("[INST] x") == "Llama 2 and Mistral"
    assert family_of("done</s>") == "an end token as text"
    assert marker_in("User: hello\nAssistant: hi, see <b>this</b> [1]") is None
    assert rendered_by("### Instruction:\nAdd.\n\n### Response:\n") == "Alpaca"
    assert rendered_by("What does [INST] mean, and [/INST]? Tell me.") is None


def test_a_large_part_is_sampled_by_prompt(materials, monkeypatch):
    """All rows of a prompt are taken, so the floor is that of all rows; the count says what was left out."""
    data = Data(materials)
    prompts = [p for p, _ in data.rows[:20]]
    rows = pairs([(p, f"{word} {n}") for n, p in enumerate(prompts) for word in ("yes", "no")])
    whole = encode_part(data.reader(), rows)
    monkeypatch.setattr(data_subject, "MOST_ROWS", 20)
    part = encode_part(data.reader(), rows)
    assert (part.total, part.looked, part.summary) == (40, 20, "40 rows, 20 of them encoded")
    assert set(Counter(example.prompt for example in part.examples).values()) == {2}
    assert lowest_loss(part.cut).openness == pytest.approx(lowest_loss(whole.cut).openness) == pytest.approx(1)
