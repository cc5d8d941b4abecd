"""What is written is what the teacher says, whoever writes it, however often it is interrupted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distillab.cache.activations import States, StatesLayout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.cache.reader import CacheReader
from distillab.cache.writer import CacheWriter
from distillab.config.cache import (
    AttentionInputsKind,
    CacheConfig,
    FullKind,
    HiddenStatesKind,
    KindConfig,
    SampledKind,
    TextKind,
    TopKKind,
)
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch, ConfigError, NumericsError, TeacherError
from distillab.models import chunking
from distillab.models.structure import ModelShape
from distillab.teachers.local import LocalTeacher
from distillab.teachers.stored.kinds import resolve_layouts
from distillab.teachers.stored.tokens import counted
from distillab.teachers.stored.writing import batches, identity_of, write_cache
from tests.teachers.cache_building import PAD, build, identity_for, peaked_teacher
from tests.training.conftest import VOCABULARY, ragged_split, teacher

ROWS = ragged_split(13).rows
KINDS: tuple[KindConfig, ...] = (
    AttentionInputsKind(blocks=(2,)),
    TopKKind(k=6, temperature=2.0, values="float16"),
    SampledKind(draws=10),
    FullKind(),
    HiddenStatesKind(layers=(0, 3), store="int8"),
)
SHAPE = ModelShape(blocks=3, width=32, heads=4, key_value_heads=2, head_width=8)


def files(folder: Path) -> dict[str, bytes]:
    """Everything but the journals, whose names say who wrote."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "journals" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_other_workers_and_an_interruption_change_no_byte(tmp_path: Path) -> None:
    source = peaked_teacher()
    whole = files(build(tmp_path / "whole", source, ROWS, KINDS))
    assert sum(name.startswith("shards") for name in whole) == 3
    for worker in (1, 0):
        build(tmp_path / "shared", source, ROWS, KINDS, worker=worker, workers=2)
    build(tmp_path / "resumed", source, ROWS, KINDS, worker=1, workers=3)
    assert files(tmp_path / "resumed").keys() < whole.keys()
    build(tmp_path / "resumed", source, ROWS, tuple(reversed(KINDS)))
    assert files(tmp_path / "shared") == whole
    assert files(tmp_path / "resumed") == whole


@pytest.mark.parametrize("width", [VOCABULARY, 30])
@pytest.mark.parametrize("piece_bytes", [1, 2 << 20])
def test_top_k_is_what_the_model_says(
    width: int, piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", 1)
    monkeypatch.setattr(chunking, "SUB_CHUNK_BYTES", {"cpu": piece_bytes})
    monkeypatch.setattr(chunking, "CHUNK_BYTES", {"cpu": 7 * VOCABULARY * 4 + piece_bytes})
    source = peaked_teacher()
    reader = CacheReader(build(tmp_path, source, ROWS, [TopKKind(k=6, temperature=2.0, values="float16")], width=width))
    for row, stored in zip(ROWS, reader.read(range(len(ROWS)), ["top_k"]), strict=True):
        assert (stored.key, stored.input_ids.tolist()) == (row.key, row.input_ids.tolist())
        top = stored.sections["top_k"]
        assert isinstance(top, TopK)
        with torch.no_grad():
            logits = source.model(input_ids=torch.from_numpy(row.input_ids).long()[None]).logits[0].double()
        scored = [place for place in range(len(row)) if row.answer_mask[place]]
        assert len(top.ids) == len(scored)
        for n, place in enumerate(scored):
            weights = [math.exp(value / 2.0) for value in logits[place - 1, :width].tolist()]
            ranked = sorted(range(width), key=lambda token: -weights[token])
            mass = [weights[token] / sum(weights) for token in ranked]
            assert top.ids[n].tolist() == ranked[:6]
            np.testing.assert_allclose(np.exp(top.logp[n]), mass[:6], rtol=3e-3)
            np.testing.assert_allclose(np.exp(top.tail_logmass[n]), sum(mass[6:]), rtol=3e-3)
            target = int(row.input_ids[place])
            actual = weights[target] / sum(weights) if target < width else 0.0
            np.testing.assert_allclose(np.exp(top.actual_logp[n]), actual, rtol=5e-3)


def test_draws_do_not_depend_on_what_stands_beside_a_row(tmp_path: Path) -> None:
    source = peaked_teacher()
    one = CacheReader(build(tmp_path / "one", source, ROWS, [SampledKind(draws=30)]))
    kinds = [SampledKind(draws=30), TopKKind(k=2)]
    other = CacheReader(build(tmp_path / "other", source, ROWS[::-1], kinds, batch_size=4, rows_per_shard=13))
    again = CacheReader(build(tmp_path / "again", source, ROWS, [SampledKind(draws=30)], seed=1))
    first, turned, differing = (
        reader.read_flat(rows, "sampled")
        for reader, rows in ((one, range(13)), (other, range(12, -1, -1)), (again, range(13)))
    )
    assert isinstance(first, Sampled) and isinstance(turned, Sampled) and isinstance(differing, Sampled)
    assert first.ids.tolist() == turned.ids.tolist()
    assert first.counts.tolist() == turned.counts.tolist()
    assert first.ids.tolist() != differing.ids.tolist()


def test_states_are_those_at_the_positions(tmp_path: Path) -> None:
    """`answer`: one position before each token that is predicted; `all`: every token."""
    source = peaked_teacher()
    for positions in ("answer", "all"):
        kind = HiddenStatesKind(layers=(0, 1), positions=positions, store="exact")  # type: ignore[arg-type]
        reader = CacheReader(build(tmp_path / positions, source, ROWS, [kind]))
        for row, stored in zip(ROWS, reader.read(range(len(ROWS)), ["hidden_states"]), strict=True):
            ids = torch.from_numpy(row.input_ids).long()[None]
            with torch.no_grad():
                hidden = source.model(input_ids=ids, output_hidden_states=True).hidden_states
            wanted = range(len(row)) if positions == "all" else (np.flatnonzero(row.answer_mask) - 1).tolist()
            states = stored.sections["hidden_states"]
            assert isinstance(states, States)
            for layer in (0, 1):
                expected = hidden[layer][0, list(wanted)].numpy()
                np.testing.assert_allclose(states.arrays[f"layer.{layer}"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_teacher_that_is_not_finite_is_refused_with_the_row(kind: KindConfig, tmp_path: Path) -> None:
    source = peaked_teacher()
    bad = 7  # a row of the second shard alone has an id of its own, whose embedding is NaN
    rows = [*ROWS]
    ids = ROWS[bad].input_ids.copy()
    ids[0] = 0
    assert not any((row.input_ids == 0).any() for row in ROWS)
    rows[bad] = EncodedRow("the bad one", ids, ROWS[bad].answer_mask, 1)
    with torch.no_grad():
        source.model.get_input_embeddings().weight[0] = torch.nan
        # padding is read by no token of a row, but it must not be what is found
    with pytest.raises(NumericsError, match="the bad one"):
        record_with(tmp_path, source, rows, kind)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["shard-00000.safetensors"]


def record_with(folder: Path, source: LocalTeacher, rows: list[EncodedRow], kind: KindConfig) -> None:
    settings = CacheConfig(rows_per_shard=5, batch_size=3)
    identity = identity_for(source, rows, [kind], width=VOCABULARY, settings=settings)
    writer = CacheWriter(folder, identity)
    write_cache(source, rows, collator=Collator(1), identity=identity, writer=writer)


def test_other_rows_than_the_identity_are_refused(tmp_path: Path) -> None:
    source = peaked_teacher()
    identity = identity_for(source, ROWS, [FullKind()], width=VOCABULARY, settings=CacheConfig())
    writer = CacheWriter(tmp_path, identity)
    with pytest.raises(CacheMismatch, match="not those of the cache"):
        write_cache(source, ROWS[::-1], collator=Collator(PAD), identity=identity, writer=writer)


def test_the_template_of_the_rows_is_not_the_teachers_own() -> None:
    source = peaked_teacher()
    identity = identity_of(
        source.identity,
        ROWS,
        CacheConfig(),
        kinds=[FullKind()],
        width=VOCABULARY,
        tokenizer="t",
        template_sha256="the student's",
        source="rows.jsonl",
    )
    assert identity.template_sha256 == "the student's"
    assert identity.teacher == source.identity.provenance


def test_a_tensor_of_another_dtype_than_the_identity_says_is_refused(tmp_path: Path) -> None:
    source = peaked_teacher()
    kind = HiddenStatesKind(layers=(1,), store="exact")
    settings = CacheConfig()
    identity = identity_for(peaked_teacher(torch.float16), ROWS, [kind], width=VOCABULARY, settings=settings)
    with pytest.raises(TeacherError, match="another dtype"):
        write_cache(source, ROWS, collator=Collator(PAD), identity=identity, writer=CacheWriter(tmp_path, identity))


def test_layouts_hold_what_the_teacher_has() -> None:
    layouts = resolve_layouts(KINDS, shape=SHAPE, dtype="bfloat16", width=151_936, head_inputs=16)
    top_k, sampled, full, hidden, attention = layouts
    assert isinstance(top_k, TopKLayout) and isinstance(sampled, SampledLayout)
    assert (top_k.id_bits, sampled.id_bits, sampled.count_bits) == (18, 18, 4)
    assert all(isinstance(layout, StatesLayout) for layout in (full, hidden, attention))
    assert [(a.name, a.width, a.store) for layout in (full, hidden, attention) for a in layout.arrays] == [  # type: ignore[union-attr]
        ("head_input", 16, "bfloat16"),
        ("layer.0", 32, "int8"),
        ("layer.3", 32, "int8"),
        ("block.2.query", 32, "bfloat16"),
        ("block.2.key", 16, "bfloat16"),
        ("block.2.value", 16, "bfloat16"),
    ]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (HiddenStatesKind(layers=(3, 4)), "has 0 to 3"),
        (AttentionInputsKind(blocks=(1, 5)), "has 1 to 3"),
        (TopKKind(k=VOCABULARY + 1), "width 48"),
    ],
)
def test_what_the_teacher_does_not_have_is_refused(kind: KindConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve_layouts([kind], shape=SHAPE, dtype="float32", width=VOCABULARY)


def test_what_cannot_be_recorded_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each kind once"):
        resolve_layouts([TopKKind(k=2), TopKKind(k=3)], shape=SHAPE, dtype="float32", width=VOCABULARY)
    with pytest.raises(ConfigError, match="float64"):
        resolve_layouts([FullKind()], shape=SHAPE, dtype="float64", width=VOCABULARY)
    with pytest.raises(ConfigError, match="text"):
        build(tmp_path, peaked_teacher(), ROWS, [TextKind()])


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.integers(0, 6)))
def test_counts_give_the_draws_back(ids_NS: np.ndarray) -> None:  # type: ignore[type-arg]
    found = counted(ids_NS, np.zeros(len(ids_NS), np.float32))
    assert np.repeat(found.ids, found.counts).reshape(ids_NS.shape).tolist() == np.sort(ids_NS, axis=1).tolist()
    assert found.distinct.tolist() == [len(set(row)) for row in ids_NS.tolist()]


def test_batches_are_decided_by_the_lengths_alone() -> None:
    assert batches([5, 2, 9, 2, 7], 2) == [[1, 3], [0, 4], [2]]


def test_a_real_teacher_in_bfloat16(materials: Path, tmp_path: Path) -> None:
    """Real weights and text: the stored distribution is the model's own, at a twentieth of its bytes."""
    model = AutoModelForCausalLM.from_pretrained(materials / "models" / "stories260K-tok512", dtype=torch.bfloat16)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(materials / "tokenizers" / "tok512")
    text = "Once upon a time there was a little dog. He saw a big tree and a red ball."
    rows = []
    for number in range(4):
        ids = np.array(tokenizer(text[: 30 + 12 * number])["input_ids"], np.int32)
        rows.append(EncodedRow(str(number), ids, np.arange(len(ids)) > 2, 3))
    source = teacher(model)
    kinds = [TopKKind(k=16), FullKind()]
    reader = CacheReader(build(tmp_path, source, rows, kinds, width=512, rows_per_shard=4, batch_size=4))
    top = reader.read_flat(range(4), "top_k")
    full = reader.read_flat(range(4), "full")
    assert isinstance(top, TopK) and isinstance(full, States)
    hidden = torch.from_numpy(full.arrays["head_input"].view(np.int16)).view(torch.bfloat16)
    stored = torch.from_numpy(reader.head().weight.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(stored, model.get_output_embeddings().weight)
    logp = torch.log_softmax((hidden @ stored.T).float(), dim=-1)
    kept = logp.gather(1, torch.from_numpy(top.ids).long())
    assert float((torch.from_numpy(top.logp) - kept).abs().max()) < 0.15  # a code of a byte at −16 nats
    assert float((torch.from_numpy(top.logp) - kept)[:, 0].abs().max()) < 0.02  # and at the likeliest token
