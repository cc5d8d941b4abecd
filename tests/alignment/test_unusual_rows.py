"""What is not text on both sides: special tokens, markers, prefix spaces, normalisers, unk, cut rows, two texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillab.alignment.plan import LeftOut, SpanPlan, answer_spans
from distillab.alignment.spans import SpanAligner
from distillab.alignment.tables import TokenTable
from distillab.data.encoding import EncodedRow, Encoder
from distillab.data.examples import Message, conversation_example, pair_example
from distillab.data.templates import resolve_template
from distillab.errors import DataError, ShapeError
from distillab.pairing.token_bytes import TokenMeaning
from tests.alignment.conftest import Side
from tests.alignment.naive import as_list

Real = Callable[[str], Side]


def table(*tokens: bytes | tuple[bytes, str]) -> TokenTable:
    """Ids in order: bytes are text, (content, role) is a special token, role "" has none."""
    meanings = [
        TokenMeaning("text", token)
        if isinstance(token, bytes)
        else TokenMeaning("special", token[0], frozenset({token[1]} - {""}))
        for token in tokens
    ]
    return TokenTable.of(meanings)


def align(
    student: Sequence[bytes | tuple[bytes, str]],
    teacher: Sequence[bytes | tuple[bytes, str]],
    differing: str = "refuse",
    **cut: bool,
) -> SpanPlan:
    """The plan of two rows, each token its own id; and the same with the sides exchanged."""
    rows = [np.arange(len(side), dtype=np.int32) for side in (student, teacher)]
    made = SpanAligner(student=table(*student), teacher=table(*teacher), differing=differing)
    plan = made.row(*rows, **cut)
    other = SpanAligner(student=table(*teacher), teacher=table(*student), differing=differing)
    swap = {"student_cut": "teacher_cut", "teacher_cut": "student_cut"}
    back = other.row(*rows[::-1], **{swap[name]: value for name, value in cut.items()}).swapped()
    assert as_list(back) == as_list(plan) and back.n_bytes.tolist() == plan.n_bytes.tolist()
    assert (back.student_left_out, back.teacher_left_out) == (plan.student_left_out, plan.teacher_left_out)
    for ranges, size, left in (
        (plan.student, len(student), plan.student_left_out),
        (plan.teacher, len(teacher), plan.teacher_left_out),
    ):
        assert int((ranges[:, 1] - ranges[:, 0]).sum()) + sum(left) == size
    return plan


BOS, EOS, START, END = (b"<s>", "bos"), (b"</s>", "eos"), (b"<|im_start|>", ""), (b"<|im_end|>", "")
UNK = (b"<unk>", "unk")


def test_bos_of_one_side_is_left_out_and_eos_is_a_span_of_its_own() -> None:
    plan = align([BOS, b" a", b"b", EOS], [b"ab", (b"<|endoftext|>", "eos")])
    assert as_list(plan) == [((1, 3), (0, 1)), ((3, 4), (1, 2))]
    assert plan.n_bytes.tolist() == [2, 0]
    assert plan.student_left_out == LeftOut(one_sided=1)


def test_one_token_that_is_bos_and_eos_and_unk_is_no_hole() -> None:
    both = (b"<|endoftext|>", "eos")
    teacher = TokenTable.of(
        [TokenMeaning("text", b"a"), TokenMeaning("special", both[0], frozenset({"bos", "eos", "unk"}))]
    )
    made = SpanAligner(student=table(b"a", EOS, BOS), teacher=teacher)
    plan = made.row(np.array([2, 0, 1], dtype=np.int32), np.array([1, 0, 1], dtype=np.int32))
    assert as_list(plan) == [((0, 1), (0, 1)), ((1, 2), (1, 2)), ((2, 3), (2, 3))]


def test_a_prefix_space_that_is_a_token_belongs_to_what_follows() -> None:
    assert as_list(align([BOS, b" ", b"\n", b"x"], [b"\n", b"x"])) == [((1, 3), (0, 1)), ((3, 4), (1, 2))]
    # after a special token in the middle too, and never to the special token
    plan = align([b"a", END, b" ", b"b", END], [b"a", END, b"b", END])
    assert as_list(plan) == [((0, 1), (0, 1)), ((1, 2), (1, 2)), ((2, 4), (2, 3)), ((4, 5), (3, 4))]
    plan = align([b"a", END, b" ", END], [b"a", END, END])
    assert as_list(plan) == [((0, 1), (0, 1)), ((1, 2), (1, 2)), ((3, 4), (2, 3))]
    assert plan.student_left_out == LeftOut(one_sided=1)


def test_a_text_that_begins_with_spaces_keeps_them() -> None:
    assert as_list(align([b"  a"], [b" ", b"a"])) == [((0, 1), (0, 2))]
    assert as_list(align([b"  ", b"a"], [b" ", b"a"])) == [((0, 1), (0, 1)), ((1, 2), (1, 2))]
    with pytest.raises(DataError):
        align([b"   a"], [b" a"])  # two spaces more are no prefix


def test_a_marker_that_the_other_side_spells_is_compared_as_text() -> None:
    spelled = [b"<|", b"im_start", b"|>user", b"\n", b"hi", b"<|im_end|>"]
    plan = align([BOS, START, b"user\n", b"hi", END, EOS], [*spelled, EOS])
    # "|>user" joins the marker and the text, so they are one span
    assert as_list(plan) == [((1, 3), (0, 4)), ((3, 4), (4, 5)), ((4, 5), (5, 6)), ((5, 6), (6, 7))]
    assert plan.n_bytes.tolist() == [17, 2, 10, 0]
    assert plan.student_left_out == LeftOut(one_sided=1)


def test_a_prefix_space_behind_a_marker_that_the_other_side_spells() -> None:
    plan = align([START, b" user"], [b"<|im_start|>", b"user"])
    assert as_list(plan) == [((0, 1), (0, 1)), ((1, 2), (1, 2))]
    plan = align([START, b"user"], [b" <|im_start|>", b"user"])
    assert as_list(plan) == [((0, 1), (0, 1)), ((1, 2), (1, 2))]


def test_a_marker_that_the_other_side_lacks_is_left_out_with_what_it_cuts() -> None:
    plan = align([b"a", b"b", END, b"c", b"d"], [b"a", b"bc", b"d"])
    assert as_list(plan) == [((0, 1), (0, 1)), ((4, 5), (2, 3))]
    assert plan.student_left_out == LeftOut(one_sided=3) and plan.teacher_left_out == LeftOut(one_sided=1)
    plan = align([b"a", END, b"d"], [b"a", b"d"])
    assert as_list(plan) == [((0, 1), (0, 1)), ((2, 3), (1, 2))]


def test_text_that_looks_like_a_marker_is_text() -> None:
    plan = align([BOS, b"<s>", b"a"], [b"<s>", b"a"])
    assert as_list(plan) == [((1, 2), (0, 1)), ((2, 3), (1, 2))]
    plan = align([BOS, b"<s>", b"a", END], [b"<s>", b"a"])
    assert as_list(plan) == [((1, 2), (0, 1)), ((2, 3), (1, 2))]
    assert plan.student_left_out == LeftOut(one_sided=2)


def test_special_tokens_that_mean_different_things_are_left_out_on_both_sides() -> None:
    plan = align([b"a", END, b"b"], [b"a", START, b"b"])
    assert as_list(plan) == [((0, 1), (0, 1)), ((2, 3), (2, 3))]
    assert plan.student_left_out == plan.teacher_left_out == LeftOut(one_sided=1)


def test_two_texts_are_refused_with_the_first_place() -> None:
    with pytest.raises(DataError, match="do not spell the same bytes") as caught:
        align([BOS, b" The ", b"cat", EOS], [b"The c", b"ow", EOS])
    assert caught.value.where == "row 0, after 6 bytes and special tokens that agree"
    assert caught.value.facts == ("student: b' The c' then b'at'", "teacher: b' The c' then b'ow'")
    ids, made = [np.array([0, 1], dtype=np.int32)], SpanAligner(student=table(b"a", b"b"), teacher=table(b"a", b"c"))
    with pytest.raises(DataError, match="row q7"):
        made.rows(ids, ids, keys=["q7"])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([b"abc"], [b"ab"]),
        ([b"ab"], [b"ab", EOS, b"c"]),
        ([b"a", EOS], [b"a ", EOS]),
        ([], [b"a"]),
        ([EOS], [b"a", EOS]),
    ],
)
def test_more_text_on_one_side_is_another_text(student: list, teacher: list) -> None:
    with pytest.raises(DataError, match="do not spell the same bytes"):
        align(student, teacher)


def test_what_a_normaliser_changes_is_left_out_to_where_the_bytes_agree_again() -> None:
    student = [b"a", b"b", b"\xef\xac\x81", b"c", b"d", EOS]  # the ligature fi
    plan = align(student, [b"a", b"bf", b"i", b"cd", EOS], "leave_out")
    assert as_list(plan) == [((0, 1), (0, 1)), ((3, 5), (3, 4)), ((5, 6), (4, 5))]
    assert plan.student_left_out == LeftOut(differing=2) and plan.teacher_left_out == LeftOut(differing=2)
    # é composed and in two characters share their last byte with others; a character is never cut there
    plan = align([b"x", "é".encode(), b"z"], [b"x", "ȩ".encode(), b"z"], "leave_out")
    assert as_list(plan) == [((0, 1), (0, 1)), ((2, 3), (2, 3))]
    plan = align([b"x", b"\xc3", b"\xa9", b"z"], [b"x", b"\xc8", b"\xa9", b"z"], "leave_out")
    assert as_list(plan) == [((0, 1), (0, 1)), ((3, 4), (3, 4))]
    plan = align([b"x", b"\xc3", b"\xa9", b"z"], [b"x", b"\xc3", b"\xa8", b"z"], "leave_out")
    assert as_list(plan) == [((0, 1), (0, 1)), ((3, 4), (3, 4))]
    plan = align([b"x", b"\xc3", b"\xa9"], [b"x", b"\xc8", b"\xa9"], "leave_out")
    assert as_list(plan) == [((0, 1), (0, 1))]
    # on one side nothing is left of it
    plan = align([b"a", b"b"], [b"a", b"  ", b"b"], "leave_out")
    assert as_list(plan) == [((0, 1), (0, 1)), ((1, 2), (2, 3))]
    # each stretch between special tokens by itself
    plan = align([b"A", END, b"b", END], [b"a", END, b"b", END], "leave_out")
    assert as_list(plan) == [((1, 2), (1, 2)), ((2, 3), (2, 3)), ((3, 4), (3, 4))]


@given(
    st.text(alphabet="abc é語", min_size=1, max_size=120),
    st.lists(st.integers(0, 119), max_size=12),
    st.sampled_from(["", "X", "YZ", "e\u0301"]),
)
def test_only_the_characters_that_differ_are_left_out(text: str, places: list[int], instead: str) -> None:
    changed = {place for place in places if 0 < place < len(text)}  # a first space may be a prefix
    student = [character.encode() for character in text]
    teacher = [c for n, kept in enumerate(text) for c in (list(instead) if n in changed else [kept])]
    plan = align(student, [c.encode() for c in teacher], "leave_out")
    assert plan.n_bytes.sum() >= sum(len(c) for n, c in enumerate(student) if n not in changed)


def test_a_row_that_differs_everywhere_ends_and_keeps_what_agrees() -> None:
    plan = align([b"a", b"X", b"b"] * 400, [b"a", b"Y", b"b"] * 400, "leave_out")
    assert plan.student_left_out == plan.teacher_left_out == LeftOut(differing=400)
    plan = align([b"X"] * 500, [b"Y"] * 500, "leave_out")
    assert as_list(plan) == [] and plan.student_left_out.differing == 500


def test_a_text_between_two_hidden_places_is_kept_where_it_is_long_enough_to_be_known() -> None:
    words = b"once upon a time"
    plan = align([b"x", UNK, words, UNK, b"z"], [b"x", b"q", words, b"qq", b"z"])
    assert as_list(plan) == [((0, 1), (0, 1)), ((2, 3), (2, 3)), ((4, 5), (4, 5))]


@pytest.mark.parametrize("name", ["gpt2", "mistral-7b-v0.1"])
@pytest.mark.parametrize(
    "text",
    [
        "The café on the corner opens at nine. " * 5,
        "Tiếng Việt là ngôn ngữ của người Việt và là ngôn ngữ chính thức tại Việt Nam. " * 3,
    ],
    ids=["five words", "Vietnamese"],
)
def test_decomposed_letters_cost_the_words_that_hold_them_and_no_more(real: Real, name: str, text: str) -> None:
    """Students that normalise to NFC read texts that their teacher reads decomposed."""
    side = real(name)
    ours, theirs = (side.ids(unicodedata.normalize(form, text)) for form in ("NFC", "NFD"))
    plan = SpanAligner(student=side.table, teacher=side.table, differing="leave_out").row(ours, theirs)
    for (a, b), (c, d) in as_list(plan):
        assert b"".join(side.meanings[i].data for i in ours[a:b]) == b"".join(
            side.meanings[i].data for i in theirs[c:d]
        )
    plain = sum(len(word) for word in text.split() if word.isascii())
    assert plan.n_bytes.sum() >= plain


def test_unk_hides_bytes_on_either_side() -> None:
    plan = align([b"a", UNK, b"c", UNK, b"e"], [b"ab", b"c", b"de"])
    assert as_list(plan) == []
    plan = align([b"a", UNK, b"c", EOS], [b"a", b"b", b"b", b"c", EOS])
    assert as_list(plan) == [((0, 1), (0, 1)), ((2, 3), (3, 4)), ((3, 4), (4, 5))]
    assert plan.student_left_out == LeftOut(differing=1) and plan.teacher_left_out == LeftOut(differing=2)


def test_a_cut_row_aligns_up_to_its_end() -> None:
    plan = align([b"ab", b"c"], [b"a", b"b", b"cd", b"e", EOS], student_cut=True)
    assert as_list(plan) == [((0, 1), (0, 2))]
    assert plan.student_left_out == LeftOut(cut=1) and plan.teacher_left_out == LeftOut(cut=3)
    plan = align([b"ab", b"c"], [b"ab"], student_cut=True, teacher_cut=True)
    assert as_list(plan) == [((0, 1), (0, 1))]
    with pytest.raises(DataError):
        align([b"ab", b"x"], [b"ab", b"c", b"d"], student_cut=True)
    with pytest.raises(DataError):
        align([b"ab"], [b"ab", b"c"], teacher_cut=True)  # the longer one was cut: two texts


def test_special_tokens_of_a_cut_row_are_never_sought_from_behind() -> None:
    both = table(b"x", b"y", START, END, EOS)
    rows = [np.array(ids, dtype=np.int32) for ids in ([2, 0, 4], [3, 0, 4, 1, 4])]
    plan = SpanAligner(student=both, teacher=both).row(*rows, student_cut=True)
    assert as_list(plan) == [((1, 2), (1, 2))]
    assert plan.student_left_out == LeftOut(one_sided=2)
    assert plan.teacher_left_out == LeftOut(one_sided=2, cut=2)


@pytest.mark.parametrize(
    ("ids", "wrong"), [([0, 2], "id 2 at token 1"), ([-1], "id -1"), ([0, 1, 0], "id 1 at token 1")]
)
def test_an_id_without_meaning_is_refused(ids: list[int], wrong: str) -> None:
    student = TokenTable.of([TokenMeaning("text", b"a"), TokenMeaning("unused", b"")])
    with pytest.raises(DataError, match="a token of its tokenizer") as caught:
        SpanAligner(student=student, teacher=table(b"a")).row(np.array(ids), np.array([0]))
    assert wrong in caught.value.facts[0] and "student" in caught.value.facts[0]


def test_as_many_rows_on_both_sides() -> None:
    made = SpanAligner(student=table(b"a"), teacher=table(b"a"))
    row = np.array([0], dtype=np.int32)
    for given_ in ({"teacher": []}, {"teacher": [row], "keys": ["a", "b"]}, {"teacher": [row], "student_cut": []}):
        with pytest.raises(ShapeError, match="same rows"):
            made.rows([row], **given_)
    assert made.rows([], []) == []


def _encoder(side: Side, template: str, kind: str, max_tokens: int = 512) -> Encoder:
    return Encoder(side.tokenizer, resolve_template(template, side.tokenizer, kind), max_tokens)


TEXT = st.lists(
    st.sampled_from(["The fox", " ", "\n", "\n\n", "狐狸", "😀", "12345", "é", "x = [1]", "  y"]), min_size=1
).map("".join)
PAIRS = [
    ("tinyllama-1.1b", "mistral-7b-v0.1"),
    ("tinyllama-1.1b", "gpt2"),
    ("gpt2", "tinyllama-1.1b"),
    ("qwen-like", "tinyllama-1.1b"),
]


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_rows_of_two_encoders_share_the_border_of_the_answer(real: Real, student: str, teacher: str) -> None:
    a, b = real(student), real(teacher)
    encoders = [(_encoder(a, name, "pair"), _encoder(b, name, "pair")) for name in ("plain", "alpaca")]
    made = SpanAligner(student=a.table, teacher=b.table)

    @settings(max_examples=40, deadline=None)
    @given(TEXT, TEXT, st.sampled_from(encoders))
    def check(prompt: str, answer: str, pair: tuple[Encoder, Encoder]) -> None:
        example = pair_example("k", "f:1", instruction=prompt, context="", answer=answer)
        ours, theirs = (encoder.encode(example) for encoder in pair)
        if not isinstance(ours, EncodedRow) or not isinstance(theirs, EncodedRow):
            return
        plan = made.row(ours.input_ids, theirs.input_ids)
        found = answer_spans(plan, student_mask=ours.answer_mask, teacher_mask=theirs.answer_mask)
        assert found.straddling == 0
        # every scored token of both sides is in a span, the answer's bytes are all there, and its EOS closes it
        for ranges, row in ((found.plan.student, ours), (found.plan.teacher, theirs)):
            assert ranges[0, 0] == row.prompt_length and ranges[-1, 1] == len(row)
            assert int((ranges[:, 1] - ranges[:, 0]).sum()) == int(row.answer_mask.sum())
        assert found.plan.n_bytes.sum() == len(answer.encode())
        assert found.plan.n_bytes[-1] == 0

    check()


def test_a_conversation_and_its_cut_rows(real: Real) -> None:
    a, b = real("tinyllama-1.1b"), real("gpt2")
    turns = (("user", "What is 12 + 3?"), ("assistant", "It is 15."), ("user", "Sure?"), ("assistant", "Yes 😀."))
    example = conversation_example("k", "f:1", tuple(Message(role, text) for role, text in turns))
    whole = [_encoder(side, "turns", "messages").encode(example) for side in (a, b)]
    made = SpanAligner(student=a.table, teacher=b.table)
    plan = made.row(whole[0].input_ids, whole[1].input_ids)
    found = answer_spans(plan, student_mask=whole[0].answer_mask, teacher_mask=whole[1].answer_mask)
    assert found.straddling == 0
    assert int(found.plan.n_bytes.sum()) == len("It is 15.Yes 😀.".encode())
    for size in range(2, len(whole[0])):
        cut = made.row(whole[0].input_ids[:size], whole[1].input_ids, student_cut=True)
        ends = [span for span in as_list(plan) if span[0][1] <= size]
        assert as_list(cut) == ends


def test_a_normaliser_of_real_tokenizers(real: Real) -> None:
    student, teacher = real("tok512"), real("mistral-7b-v0.1")  # tok512 drops and joins spaces
    text = "def f(x):\n    return  x"
    ours, theirs = student.ids(text, special=True), teacher.ids(text, special=True)
    with pytest.raises(DataError, match="do not spell the same bytes"):
        SpanAligner(student=student.table, teacher=teacher.table).row(ours, theirs)
    plan = SpanAligner(student=student.table, teacher=teacher.table, differing="leave_out").row(ours, theirs)
    for (a, b), (c, d) in as_list(plan)[1:]:
        assert b"".join(student.meanings[i].data for i in ours[a:b]) == b"".join(
            teacher.meanings[i].data for i in theirs[c:d]
        )
    assert plan.n_bytes.sum() >= len("def f(x):\n" + "x")
    assert plan.student_left_out.differing and plan.teacher_left_out.differing
