"""What a teacher's token is in the student's vocabulary, and distributions carried over."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from distillab.alignment.projection import Mapped, VocabularyProjection
from distillab.alignment.vocabulary import project_vocabulary
from distillab.errors import DataError, ShapeError, TokenizerMismatch
from distillab.pairing.token_bytes import TokenMeaning
from tests.alignment.conftest import Side

Real = Callable[[str], Side]
Built = Callable[[str, str], VocabularyProjection]

PAIRS = [
    ("mistral-7b-v0.1", "tinyllama-1.1b"),
    ("gpt2", "tinyllama-1.1b"),
    ("tinyllama-1.1b", "gpt2"),
    ("gpt2", "qwen-like"),
]


def text(*pieces: bytes) -> list[TokenMeaning]:
    return [TokenMeaning("text", piece) for piece in pieces]


def special(content: bytes, *roles: str) -> TokenMeaning:
    return TokenMeaning("special", content, frozenset(roles))


def byte(value: int) -> TokenMeaning:
    return TokenMeaning("byte", bytes([value]))


def of(
    teacher: Sequence[TokenMeaning],
    student: Sequence[TokenMeaning],
    pieces: dict[bytes, list[int]] | None = None,
    **widths: int,
) -> VocabularyProjection:
    known = pieces or {}
    return project_vocabulary(
        teacher=teacher,
        student=student,
        pieces=lambda many: [known.get(data, []) for data in many],
        teacher_fingerprint="t",
        student_fingerprint="s",
        **widths,
    )


def logps(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.log_softmax(4 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "tok512", "tok105", "qwen-like"])
def test_a_tokenizer_with_itself_is_the_identity(built: Built, name: str) -> None:
    projection = built(name, name)
    logp = logps(3, projection.teacher_width)
    projected = projection.project(logp)
    assert torch.equal(projected.logp, logp)
    assert torch.isneginf(projected.unmapped_logmass).all()


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_every_token_by_the_rules_and_nothing_lost(real: Real, built: Built, teacher: str, student: str) -> None:
    ours, theirs = real(teacher), real(student)
    projection = built(teacher, student)
    logp = logps(2, projection.teacher_width)
    projected = projection.project(logp)
    terms: dict[int, list[int]] = {}
    for id_, meaning in enumerate(ours.meanings):
        mapped = projection.describe(id_)
        assert len(mapped) <= 1
        for student_id, weight, how in mapped:
            assert weight == 1.0
            target = theirs.meanings[student_id]
            terms.setdefault(student_id, []).append(id_)
            if how == "exact":
                assert target.data == meaning.data and target.kind in ("text", "byte")
            elif how == "pieces":
                assert meaning.data.startswith(target.data) and len(target.data) < len(meaning.data)
            else:
                assert target.data == meaning.data or target.roles & meaning.roles
    for row in range(2):
        prob = logp[row].double().exp().tolist()
        exact = [0.0] * projection.student_width
        for student_id, ids in terms.items():
            exact[student_id] = math.fsum(prob[id_] for id_ in ids)
        expected = torch.tensor(exact, dtype=torch.float64).log().float()
        torch.testing.assert_close(projected.logp[row], expected, rtol=1e-6, atol=1e-6)
    whole = projected.logp.double().exp().sum(dim=1) + projected.unmapped_logmass.double().exp()
    torch.testing.assert_close(whole, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_digits_and_all_tokens_that_both_have_keep_their_own_mass(
    real: Real, built: Built, teacher: str, student: str
) -> None:
    ours, theirs = real(teacher), real(student)
    projection = built(teacher, student)
    own: dict[bytes, list[int]] = {}
    for id_, meaning in enumerate(ours.meanings):
        if meaning.kind in ("text", "byte"):
            own.setdefault(meaning.data, []).append(id_)
    regular = {meaning.data for meaning in theirs.meanings if meaning.kind == "text"}
    digits = 0
    for id_, meaning in enumerate(theirs.meanings):
        if meaning.kind != "text" or meaning.data not in own:
            continue
        received = {projection.describe(source)[0].student_id for source in own[meaning.data]}
        assert (
            received == {id_} or meaning.data not in regular or any(theirs.meanings[i].kind == "byte" for i in received)
        )
        assert id_ in received
        digits += meaning.data.isdigit() and len(meaning.data) == 1
    assert digits == 10


def test_the_first_piece_is_how_the_student_goes_on(real: Real, built: Built) -> None:
    ours, theirs = real("mistral-7b-v0.1"), real("tinyllama-1.1b")
    projection = built("mistral-7b-v0.1", "tinyllama-1.1b")
    checked = 0
    for id_, meaning in list(enumerate(ours.meanings))[300:32000:97]:
        if meaning.kind == "text" and meaning.data.startswith(b" ") and meaning.data.strip():
            after = theirs.ids("go" + meaning.data.decode())[len(theirs.ids("go")) :]
            assert projection.describe(id_)[0].student_id == after[0]
            checked += 1
    assert checked > 100


def test_the_regular_token_before_the_byte_token() -> None:
    student = [byte(0x61), *text(b"a"), byte(0xE4)]
    assert of([*text(b"a"), byte(0xE4)], student).describe(0) == [Mapped(1, 1.0, "exact")]
    assert of([*text(b"b"), byte(0xE4)], student).describe(1) == [Mapped(2, 1.0, "exact")]
    assert of([byte(0x61)], student).describe(0) == [Mapped(1, 1.0, "exact")]


def test_of_several_tokens_of_the_same_bytes_the_tokenizer_s_own() -> None:
    student = text(b"  ", b"x", b"  ")
    assert of(text(b"  "), student, {b"  ": [2]}).describe(0)[0].student_id == 2
    assert of(text(b"  "), student).describe(0)[0].student_id == 0


def test_special_tokens_by_content_then_role_and_what_has_neither_is_unmapped() -> None:
    student = [special(b"</s>", "eos"), special(b"<s>", "bos"), special(b"<|end|>"), *text(b"<tool>", b"<")]
    teacher = [
        special(b"<|end|>", "eos", "pad"),
        special(b"<|endoftext|>", "bos", "eos"),
        special(b"<|x|>"),
        special(b"<tool>"),
        *text(b"</s>"),
    ]
    projection = of(teacher, student)
    shown = [[(m.student_id, m.how) for m in projection.describe(id_)] for id_ in range(5)]
    assert shown == [[(2, "role")], [(0, "role")], [], [(3, "role")], [(0, "role")]]
    assert projection.coverage_by_rows() == (0.0, 0.0, 0.8, 0.2)


def test_part_of_a_character_goes_to_a_byte_only_where_nothing_else_can_follow() -> None:
    student = [byte(0xE4), byte(0xBD), *text("你".encode(), b"a")]  # e4 bd a0
    teacher = text(b"\xe4", b"\xe4\xbd", b"\xbd\xa0", b"\xe5", b"a\xe4\xbd", b"\xbda")
    projection = of([*teacher, byte(0xE4)], student)
    shown = [[(m.student_id, m.how) for m in projection.describe(id_)] for id_ in range(7)]
    # \xe4 alone is a byte token of the student; of \xe4\xbd the student may go on with 你; \xbd\xa0 only with \xbd
    assert shown == [[(0, "exact")], [], [(1, "pieces")], [], [(3, "pieces")], [(1, "pieces")], [(0, "exact")]]


def test_padded_logits_and_unused_ids_are_unmapped_mass() -> None:
    projection = of([*text(b"a"), TokenMeaning("unused", b"")], text(b"a"), teacher_width=4, student_width=3)
    projected = projection.project(torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log())
    torch.testing.assert_close(projected.logp.exp(), torch.tensor([[0.4, 0.0, 0.0]]))
    torch.testing.assert_close(projected.unmapped_logmass.exp(), torch.tensor([0.6]))
    assert projection.coverage_by_rows().exact == 1.0
    assert projection.coverage_by_mass([1, 1, 0, 0]) == (0.5, 0.0, 0.0, 0.5)


def test_sums_are_made_in_log_space() -> None:
    projection = of(text(b"aa", b"aaa", b"z"), text(b"a", b"z"), {b"aa": [0, 0], b"aaa": [0, 0, 0]})
    logp = torch.tensor([[-300.0, -301.0, 0.0], [-math.inf, -math.inf, 0.0]])
    projected = projection.project(logp.requires_grad_())
    assert projected.logp[0, 0].item() == pytest.approx(-300.0 + math.log1p(math.exp(-1.0)), abs=1e-5)
    assert torch.isneginf(projected.logp[1, 0])
    projected.logp[0, 0].backward()
    assert logp.grad is not None
    shares = torch.softmax(torch.tensor([-300.0, -301.0]), dim=0)
    torch.testing.assert_close(logp.grad[0, :2], shares)
    half = projection.project(logp.detach().bfloat16())
    assert half.logp.dtype == torch.float32


def test_coverage_of_a_data_set(real: Real, built: Built) -> None:
    ours, projection = real("mistral-7b-v0.1"), built("mistral-7b-v0.1", "tinyllama-1.1b")
    rows = projection.coverage_by_rows()
    assert rows.exact == pytest.approx(0.7566, abs=1e-4) and rows.unmapped == 0
    counts = np.bincount(ours.ids("The quick brown fox unravels 345 antidotes."), minlength=projection.teacher_width)
    by_hand = [projection.describe(i)[0].how for i in ours.ids("The quick brown fox unravels 345 antidotes.")]
    assert projection.coverage_by_mass(counts).pieces == pytest.approx(by_hand.count("pieces") / len(by_hand))
    assert sum(projection.coverage_by_mass(counts)) == pytest.approx(1.0)
    for wrong, error in ((counts[:-1], ShapeError), (counts * 0, DataError), (-counts, DataError)):
        with pytest.raises(error):
            projection.coverage_by_mass(wrong)


def test_saved_and_read(tmp_path: Path) -> None:
    projection = of(text(b"aa", b"z"), text(b"a", b"z"), {b"aa": [0, 0]}, student_width=7)
    file = tmp_path / "projection.safetensors"
    projection.save(file)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    read = VocabularyProjection.load(file, teacher_fingerprint="t", student_fingerprint="s")
    assert [read.describe(id_) for id_ in (0, 1)] == [[Mapped(0, 1.0, "pieces")], [Mapped(1, 1.0, "exact")]]
    assert (read.teacher_width, read.student_width) == (2, 7)
    with pytest.raises(TokenizerMismatch, match="another teacher tokenizer"):
        VocabularyProjection.load(file, teacher_fingerprint="other", student_fingerprint="s")
    with pytest.raises(TokenizerMismatch, match="another student tokenizer"):
        VocabularyProjection.load(file, teacher_fingerprint="t", student_fingerprint="t")


def test_files_that_are_no_projection_are_refused(tmp_path: Path) -> None:
    projection = of(text(b"a"), text(b"a"))
    file = tmp_path / "projection.safetensors"
    projection.save(file)
    whole = file.read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-5])
    save_file({"a": np.zeros(1)}, tmp_path / "other")
    wrong = {"row_ends": np.array([0, 1]), "student_ids": np.array([5]), "how": np.zeros(1, np.uint8)}
    metadata = {"format": "distillab vocabulary projection 1", "student_width": "1"}
    metadata |= {"teacher_fingerprint": "t", "student_fingerprint": "s"}
    save_file(wrong | {"weights": np.ones(1, np.float32)}, tmp_path / "outside", metadata)
    save_file(wrong, tmp_path / "missing", metadata)
    for name in ("absent", "cut", "other", "outside", "missing"):
        with pytest.raises(DataError) as caught:
            VocabularyProjection.load(tmp_path / name, teacher_fingerprint="t", student_fingerprint="s")
        assert name in str(caught.value)


def test_wrong_shapes_and_pieces_are_refused() -> None:
    projection = of(text(b"a"), text(b"a"))
    with pytest.raises(ShapeError, match="row for every column"):
        projection.project(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="no such teacher id"):
        projection.describe(1)
    with pytest.raises(ShapeError, match="column for every token"):
        of(text(b"a", b"b"), text(b"a"), teacher_width=1)
    with pytest.raises(DataError, match="Pieces spell"):
        of(text(b"ab"), text(b"a", b" "), {b"ab": [1, 0]})
