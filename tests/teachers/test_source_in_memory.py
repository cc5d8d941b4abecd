"""The seam: a table of log-probabilities is a teacher that is trained on, recorded and judged like any other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distillab.cache.reader import CacheReader
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, FullKind, HiddenStatesKind, TopKKind
from distillab.config.terms import TopKDivergenceConfig
from distillab.data.collation import Collator
from distillab.errors import ConfigError, TeacherError
from distillab.evaluation.likelihood import SharedTeacher, score_rows
from distillab.models.batch import TokenBatch
from distillab.models.scoring import at_scored
from distillab.records import TeacherProvenance
from distillab.teachers.protocol import NO_LAYERS, SignalSource, TeacherIdentity
from distillab.teachers.signals import FullLogits, SignalRequest, TeacherSignal
from distillab.teachers.stored.teacher import load_cached
from distillab.teachers.stored.writing import identity_of, write_cache
from tests.training.conftest import VOCABULARY, Train, ragged_split, tiny_llama, train  # noqa: F401

SPLIT = ragged_split(12)
TERMS = (TopKDivergenceConfig(k=5),)


@dataclass(frozen=True)
class TableTeacher:
    """After every token the same distribution: a row of `logp_WW`."""

    logp_WW: Tensor

    @property
    def identity(self) -> TeacherIdentity:
        provenance = TeacherProvenance(
            name="table", weights_sha256="a table", parameters=0, dtype="float32", template_sha256="0"
        )
        return TeacherIdentity(provenance, "logits", None, NO_LAYERS, "float32", VOCABULARY, VOCABULARY)

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        if request.activations:
            raise TeacherError("A table has no activations.")

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        return TeacherSignal(scores=FullLogits(self.logp_WW[at_scored(batch["input_ids"], batch)]))


def a_table() -> TableTeacher:
    return TableTeacher(
        (4 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(5))).log_softmax(-1)
    )


def recorded(source: SignalSource, folder: Path, kind: TopKKind | FullKind | HiddenStatesKind) -> SignalSource:
    names = {"tokenizer": "t", "template_sha256": "0"}
    identity = identity_of(
        source.identity, SPLIT.rows, CacheConfig(), kinds=[kind], width=VOCABULARY, source="rows", **names
    )
    write_cache(source, SPLIT.rows, collator=Collator(0), identity=identity, writer=CacheWriter(folder, identity))
    cpu = torch.device("cpu")
    return load_cached(folder, device=cpu, tokenizer_fingerprint="t", template_sha256="0", width=VOCABULARY)


def test_it_is_trained_on_recorded_and_judged(train: Train, tmp_path: Path) -> None:  # noqa: F811
    source, steps = a_table(), {"terms": TERMS, "split": SPLIT, "steps": 30}
    cached = recorded(source, tmp_path / "cache", TopKKind(k=8, values="float16"))
    live, reports = train(source=source, folder=tmp_path / "live", **steps)
    _, again = train(source=cached, folder=tmp_path / "again", **steps)
    assert [report.loss for report in again] == pytest.approx([report.loss for report in reports], rel=2e-2)
    kl = [
        score_rows(
            model,
            SPLIT.rows,
            collator=Collator(0),
            batch_size=4,
            stop_ids=[1],
            shared=SharedTeacher(source, VOCABULARY),
        ).kl
        for model in (tiny_llama(0), live)
    ]
    assert kl[0] is not None and kl[1] is not None and kl[1].sum() < 0.8 * kl[0].sum()


def test_what_stands_in_the_cache_is_the_table(tmp_path: Path) -> None:
    source = a_table()
    recorded(source, tmp_path, TopKKind(k=8, values="float16"))
    for row, stored in zip(SPLIT.rows, CacheReader(tmp_path).read(range(len(SPLIT.rows)), ["top_k"]), strict=True):
        before = torch.tensor(row.input_ids)[:-1][torch.tensor(row.answer_mask)[1:]].long()
        target = torch.tensor(row.input_ids)[torch.tensor(row.answer_mask)].long()
        top, section = source.logp_WW[before].topk(8), stored.sections["top_k"]
        assert torch.tensor(section.ids).equal(top.indices.int())
        torch.testing.assert_close(torch.tensor(section.logp), top.values, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(
            torch.tensor(section.actual_logp), source.logp_WW[before, target], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    ("kind", "error", "rule"),
    [(FullKind(), ConfigError, "no output head"), (HiddenStatesKind(layers=(1,)), ConfigError, "these layers")],
)
def test_what_it_does_not_give_is_refused_before_it_is_asked(
    kind: FullKind | HiddenStatesKind, error: type[Exception], rule: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=rule):
        recorded(a_table(), tmp_path, kind)
