"""What a cache does not hold is refused before a run starts, with both sides and what to build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distillab.config.cache import AttentionInputsKind, FullKind, HiddenStatesKind, KindConfig, SampledKind, TopKKind
from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.terms import TokenDivergenceConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch, TeacherError
from distillab.models.activations import ActivationSpec
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.teachers.signals import Distribution, Draws, ScoreRequest, SignalRequest, Top
from distillab.teachers.stored.teacher import CachedTeacher, load_cached
from tests.teachers.cache_building import CPU, PAD, build, cached, peaked_teacher
from tests.training.conftest import VOCABULARY, ragged_split, tiny_llama

ROWS = ragged_split(8).rows
FEW: tuple[KindConfig, ...] = (
    TopKKind(k=16, temperature=2.0),
    SampledKind(draws=20),
    HiddenStatesKind(layers=(1, 3)),
    AttentionInputsKind(blocks=(2,)),
)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> CachedTeacher:
    return cached(build(tmp_path_factory.mktemp("few"), peaked_teacher(), ROWS, FEW))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("full"), peaked_teacher(), ROWS, [FullKind()])


def test_capabilities_are_those_of_the_most_that_is_stored(few: CachedTeacher, full: Path) -> None:
    assert few.identity.access == "internals"
    assert few.identity.shape == peaked_teacher().identity.shape
    assert cached(full).identity.access == "logits"
    assert cached(full).identity.provenance == peaked_teacher().identity.provenance


def test_each_kind_has_its_access(tmp_path: Path) -> None:
    top = cached(build(tmp_path / "a", peaked_teacher(), ROWS, [TopKKind(k=2)]))
    drawn = cached(build(tmp_path / "b", peaked_teacher(), ROWS, [SampledKind(draws=2), TopKKind(k=2)]))
    assert (top.identity.access, drawn.identity.access) == ("top_k", "logits")


@pytest.mark.parametrize(
    "need", [Top(16, VOCABULARY, 2.0), Top(3, VOCABULARY, 2.0), Draws(20, VOCABULARY)], ids=lambda need: str(need)
)
def test_what_is_stored_is_given(need: ScoreRequest, few: CachedTeacher) -> None:
    few.require(SignalRequest(frozenset({need})), packing=True)


@pytest.mark.parametrize(
    ("need", "said"),
    [
        (Top(16, VOCABULARY, 1.0), "kind: top_k, k: 16, temperature: 1"),
        (Top(17, VOCABULARY, 2.0), "stored: the 16 most likely of the ids 0 to 47 at temperature 2"),
        (Top(4, VOCABULARY - 1, 2.0), "needed: the 4 most likely of the ids 0 to 46"),
        (Draws(21, VOCABULARY), "kind: sampled, draws: 21"),
        (Draws(20, VOCABULARY, 2.0), "stored: 20 draws of the ids 0 to 47 at temperature 1"),
        (Draws(20, VOCABULARY - 1), "needed: 20 draws of the ids 0 to 46"),
        (Distribution(VOCABULARY), "kind: full"),
    ],
    ids=str,
)
def test_another_form_is_refused(need: ScoreRequest, said: str, few: CachedTeacher) -> None:
    request = SignalRequest(frozenset({need}))
    with pytest.raises(TeacherError, match="does not hold") as caught:
        few.require(request, packing=False)
    assert said in str(caught.value)
    with pytest.raises(TeacherError, match="does not hold"):
        few.signal(Collator(PAD)([IndexedRow(0, ROWS[0])]), request)  # whoever has not asked before


def test_a_form_that_was_not_asked_for_is_refused_where_it_is_read(few: CachedTeacher) -> None:
    batch = Collator(PAD)([IndexedRow(0, ROWS[0])])
    scores = few.signal(batch, SignalRequest(frozenset({Draws(20, VOCABULARY)}))).scores
    assert scores is not None
    tokens = scores.chunk(slice(None), CPU)
    with pytest.raises(TeacherError):
        tokens.top(4, VOCABULARY, 2.0)
    with pytest.raises(TeacherError):
        tokens.drawn(19, VOCABULARY, 1.0)
    with pytest.raises(TeacherError, match="kind: full"):
        tokens.logp(VOCABULARY, 1.0)


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (ActivationSpec(hidden=frozenset({1, 2})), "kind: hidden_states, layers: [2]"),
        (ActivationSpec(projections=frozenset({1})), "kind: attention_inputs, blocks: [1]"),
        (ActivationSpec(maps=frozenset({1})), "Attention maps cannot be read"),
        (ActivationSpec(hidden=frozenset({1})), "positions: all, layers: [1]"),
    ],
    ids=str,
)
def test_other_inner_states_are_refused(inner: ActivationSpec, said: str, few: CachedTeacher) -> None:
    with pytest.raises(TeacherError) as caught:
        few.require(SignalRequest(activations=inner), packing=False)
    assert said in str(caught.value)


def test_positions_are_those_of_the_terms_that_read_hidden_states(few: CachedTeacher) -> None:
    """Relations at all positions say nothing of where hidden states are read."""
    terms = (
        HiddenStatesConfig(layers=((1, 3),)),
        AttentionRelationsConfig(layers=((1, 2),), positions="all"),
    )
    student = model_shape(tiny_llama(0))
    few.require(
        build_objective(terms, shared_width=0, student=student, teacher=few.identity.shape).request, packing=True
    )
    everywhere = (*terms, HiddenStatesConfig(layers=((1, 1),), positions="all"))
    request = build_objective(everywhere, shared_width=0, student=student, teacher=few.identity.shape).request
    assert request.hidden_at == {"answer", "all"}
    with pytest.raises(TeacherError, match="at all positions"):
        few.require(request, packing=True)


def test_the_whole_distribution_serves_every_form_and_width(full: Path) -> None:
    needs = (Distribution(40, 3.0), Top(7, 44), Draws(9, VOCABULARY))
    cached(full).require(SignalRequest(frozenset(needs)), packing=True)
    with pytest.raises(TeacherError, match="fewer ids"):
        cached(full).require(SignalRequest(frozenset({Distribution(VOCABULARY + 1)})), packing=True)


def test_a_row_that_is_not_there_is_named(full: Path) -> None:
    stored, request = cached(full), SignalRequest(frozenset({Distribution(VOCABULARY)}))
    shifted = replace(ROWS[2], answer_mask=np.roll(ROWS[2].answer_mask, 1) & ROWS[2].answer_mask)
    assert shifted.answer_mask.sum() == ROWS[2].answer_mask.sum() - 1  # the same tokens, another answer
    batch = Collator(PAD, "left")([IndexedRow(0, ROWS[0]), IndexedRow(41, shifted)])
    with pytest.raises(CacheMismatch, match="row 41 of its split"):
        stored.signal(batch, request)


def test_rows_of_a_run_are_looked_for_before_it_starts(full: Path) -> None:
    stored = cached(full)
    stored.require_rows(ROWS[::-1], what="training rows")
    strangers = [replace(row, key=f"new-{row.key}", input_ids=row.input_ids[::-1].copy()) for row in ROWS[:5]]
    with pytest.raises(CacheMismatch) as caught:
        stored.require_rows([*ROWS, *strangers], what="training rows")
    assert "5 of 13 training rows are not in the cache" in str(caught.value)
    assert "the first: new-row0, new-row1, new-row2" in str(caught.value)


def changed(row: EncodedRow) -> EncodedRow:
    ids = row.input_ids.copy()
    ids[3] += 1
    return replace(row, input_ids=ids)


def test_other_tokens_under_the_same_key_are_shown(full: Path) -> None:
    row = ROWS[4]
    with pytest.raises(CacheMismatch) as caught:
        cached(full).require_rows([*ROWS[:4], changed(row)], what="training rows")
    text = str(caught.value)
    assert "1 of 5 training rows have other tokens" in text and "key row4" in text
    assert "differ from token 3 on" in text and "max_tokens" in text
    assert f"the cache: {len(row)} tokens, there {row.input_ids[:9].tolist()}" in text
    assert f"this run: {len(row)} tokens, there {changed(row).input_ids[:9].tolist()}" in text


def test_a_row_that_was_cut_and_another_answer_are_shown(full: Path) -> None:
    row = ROWS[4]
    cut = replace(row, input_ids=row.input_ids[:-2], answer_mask=row.answer_mask[:-2])
    with pytest.raises(CacheMismatch, match=f"differ from token {len(row) - 2} on"):
        cached(full).require_rows([cut], what="rows")
    mask = row.answer_mask.copy()
    mask[-1] = False
    with pytest.raises(CacheMismatch, match=f"differ from token {len(row) - 1} on") as caught:
        cached(full).require_rows([replace(row, answer_mask=mask)], what="rows")
    assert f"this run: {mask.sum()} scored" in str(caught.value)


def load(folder: Path, *, tokenizer: str = "tokenizer-fingerprint", template: str = "0", width: int = VOCABULARY):  # type: ignore[no-untyped-def]
    return load_cached(folder, device=CPU, tokenizer_fingerprint=tokenizer, template_sha256=template, width=width)


def test_loading_compares_what_the_cache_was_made_for(full: Path, tmp_path: Path) -> None:
    load(full).require_rows(ROWS, what="rows")
    with pytest.raises(CacheMismatch, match="tokenizer: the cache tokenizer-fingerprint; this run another"):
        load(full, tokenizer="another")
    with pytest.raises(CacheMismatch, match="template: the cache 0; this run 1"):
        load(full, template="1")
    load(full, width=40)  # the whole distribution can be cut
    top = build(tmp_path, peaked_teacher(), ROWS, [TopKKind(k=4)])
    load(top)
    with pytest.raises(CacheMismatch, match="width: the cache 48; this run 40"):
        load(top, width=40)


def test_an_incomplete_cache_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path, peaked_teacher(), ROWS, [FullKind()], worker=1, workers=2, rows_per_shard=2)
    with pytest.raises(CacheMismatch, match="2 of 4 shards are missing, the first is 0"):
        load(folder)


def test_a_smaller_k_moves_the_dropped_tokens_to_the_tail(few: CachedTeacher) -> None:
    batch = Collator(PAD)([IndexedRow(0, ROWS[0]), IndexedRow(1, ROWS[1])])
    scores = few.signal(batch, SignalRequest(frozenset({Top(16, VOCABULARY, 2.0)}))).scores
    assert scores is not None
    tokens = scores.chunk(torch.arange(4), CPU).rows(slice(1, 3))
    assert tokens.positions == 2
    all_kept, some = tokens.top(16, VOCABULARY, 2.0), tokens.top(5, VOCABULARY, 2.0)
    assert torch.equal(some.ids, all_kept.ids[:, :5])
    tail = all_kept.tail_logmass.exp() + all_kept.logp[:, 5:].exp().sum(dim=1)
    torch.testing.assert_close(some.tail_logmass.exp(), tail)
    torch.testing.assert_close(some.logp.exp().sum(dim=1) + some.tail_logmass.exp(), torch.ones(2))


def test_terms_of_every_form_read_one_cache(full: Path) -> None:
    """A request is checked once; what was checked before says nothing of another one."""
    stored = cached(full)
    objective = build_objective([TokenDivergenceConfig()], shared_width=VOCABULARY)
    stored.require(objective.request, packing=False)
    batch = Collator(PAD)([IndexedRow(0, ROWS[0])])
    with pytest.raises(TeacherError):
        stored.signal(batch, replace(objective.request, activations=ActivationSpec(hidden=frozenset({1}))))
