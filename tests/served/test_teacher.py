"""A teacher behind a server is trained on and recorded like the same teacher in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from distillab.cache.reader import CacheReader
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, FullKind, HiddenStatesKind, KindConfig, SampledKind, TopKKind
from distillab.config.on_policy import StudentAnswersConfig
from distillab.config.served import ServerConfig
from distillab.config.terms import TopKDivergenceConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import DistillabError, TeacherError
from distillab.pairing.token_bytes import token_meanings
from distillab.records import TeacherProvenance
from distillab.teachers.local import LocalTeacher
from distillab.teachers.protocol import SignalSource
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.llama_cpp import LlamaCpp
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.journal import AnswerJournal, paid_in
from distillab.teachers.served.teacher import ServedTeacher
from distillab.teachers.signals import SignalRequest, Top
from distillab.teachers.stored.writing import identity_of, write_cache
from tests.served.conftest import SmallMistral
from tests.served.faulty_server import FaultyServer, Status, W, serving, table
from tests.served.test_llama_cpp import TEXTS, TOLERANCE_NATS
from tests.teachers.test_source_in_memory import TableTeacher
from tests.training.conftest import Train, ragged_split, train  # noqa: F401

CPU = torch.device("cpu")
K = 8
TOP_K = TopKKind(k=K, values="float16")
SPLIT = ragged_split(12)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(FaultyServer()) as app:
        yield app


@pytest.fixture
def served(server: FaultyServer, tmp_path: Path) -> Iterator[ServedTeacher]:
    journal = AnswerJournal(tmp_path / "answers")
    client = Client(ServerConfig(url=server.url, dialect="vllm", model="table", k=K, tries=1), journal, tokenizer="t")
    yield ServedTeacher(client, Vllm("table"), width=W, name="served", template_sha256="0", device=CPU)
    client.close()
    journal.close()


def recorded(
    source: SignalSource, rows: Sequence[EncodedRow], folder: Path, *, width: int, kind: KindConfig = TOP_K
) -> CacheReader:
    identity = identity_of(
        source.identity,
        rows,
        CacheConfig(),
        kinds=[kind],
        width=width,
        source="rows",
        tokenizer="t",
        template_sha256="0",
    )
    write_cache(source, rows, collator=Collator(0), identity=identity, writer=CacheWriter(folder, identity))
    return CacheReader(folder)


def test_training_on_it_is_training_on_the_same_teacher_in_memory(
    served: ServedTeacher,
    server: FaultyServer,
    train: Train,  # noqa: F811
    tmp_path: Path,
) -> None:
    settings = {"terms": (TopKDivergenceConfig(k=5),), "split": SPLIT, "steps": 12}
    local = TableTeacher(torch.from_numpy(table()).float())
    _, wanted = train(source=local, folder=tmp_path / "local", **settings)
    _, got = train(source=served, folder=tmp_path / "served", **settings)
    assert [report.loss for report in got] == pytest.approx([report.loss for report in wanted], rel=1e-5)
    # twelve steps read the rows several times; each was asked for once
    assert len(server.asked) == len(SPLIT.rows)


def test_what_a_student_writes_is_asked_once_and_not_stored(
    served: ServedTeacher,
    server: FaultyServer,
    train: Train,  # noqa: F811
    tmp_path: Path,
) -> None:
    own = StudentAnswersConfig(fraction=0.5, max_new_tokens=6, reuse=2)
    settings = {"terms": (TopKDivergenceConfig(k=5),), "split": SPLIT, "steps": 4, "own": own}
    known = {tuple(row.input_ids.tolist()) for row in SPLIT.rows}
    served.keeps, served.remembered = lambda ids: tuple(ids) in known, 4
    local = TableTeacher(torch.from_numpy(table()).float())
    _, wanted = train(source=local, folder=tmp_path / "local", **settings)
    _, got = train(source=served, folder=tmp_path / "served", **settings)
    assert [report.loss for report in got] == pytest.approx([report.loss for report in wanted], rel=1e-5)
    asked = [tuple(request["prompt"]) for request in server.asked]
    assert len(asked) == len(set(asked)) and sum(ids not in known for ids in asked) == 2 * 4
    # what each took is there, those of the student's rows under one key
    assert paid_in(tmp_path / "answers").requests == len(asked)
    assert len(AnswerJournal(tmp_path / "answers", "another")) == len(set(asked) & known) + 1


def test_a_cache_of_a_real_server_is_the_local_one(
    llama_server: str, small_mistral: SmallMistral, tmp_path: Path
) -> None:
    rows = []
    for number, text in enumerate(TEXTS):
        ids = np.array([*small_mistral.tokenizer(text).input_ids, 2], dtype=np.int32)
        rows.append(EncodedRow(key=str(number), input_ids=ids, answer_mask=np.arange(len(ids)) >= 1, prompt_length=1))
    journal = AnswerJournal(tmp_path / "answers")
    client = Client(ServerConfig(url=llama_server, dialect="llama_cpp", k=K), journal, tokenizer="small mistral")
    dialect = LlamaCpp(token_meanings(small_mistral.tokenizer))
    source = ServedTeacher(client, dialect, width=32_000, name="served", template_sha256="0", device=CPU)
    provenance = TeacherProvenance(name="local", weights_sha256="0", parameters=0, dtype="float32", template_sha256="0")
    caches = [
        recorded(source, rows, tmp_path / "served", width=32_000),
        recorded(LocalTeacher(small_mistral.model, provenance), rows, tmp_path / "local", width=32_000),
    ]
    for one, other in zip(*(cache.read(range(len(rows)), ["top_k"]) for cache in caches), strict=True):
        got, wanted = one.sections["top_k"], other.sections["top_k"]
        np.testing.assert_allclose(got.logp, wanted.logp, atol=TOLERANCE_NATS)
        np.testing.assert_allclose(got.actual_logp, wanted.actual_logp, atol=TOLERANCE_NATS)
        np.testing.assert_allclose(np.exp(got.tail_logmass), np.exp(wanted.tail_logmass), atol=TOLERANCE_NATS)
        assert (got.ids == wanted.ids).mean() > 0.98  # two nearly equal ones can change places
    client.close()
    journal.close()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_sent(side: str, served: ServedTeacher, server: FaultyServer) -> None:
    batch = Collator(0, side)([IndexedRow(index, row) for index, row in enumerate(SPLIT.rows[:5])])  # type: ignore[arg-type]
    signal = served.signal(batch, SignalRequest(frozenset({Top(3, W)})))
    sent = sorted(request["prompt"] for request in server.asked)
    assert sent == sorted(row.input_ids.tolist() for row in SPLIT.rows[:5])
    assert signal.scores is not None
    got = signal.scores.chunk(slice(None), CPU).top(3, W, 1.0)
    before = [row.input_ids[:-1][row.answer_mask[1:]] for row in SPLIT.rows[:5]]
    logp = torch.from_numpy(table()[np.concatenate(before)]).float()
    torch.testing.assert_close(got.logp, logp.topk(3).values)
    rest = 1 - logp.topk(3).values.exp().sum(-1)
    torch.testing.assert_close(got.tail_logmass.exp(), rest, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (TopKKind(k=K + 1, values="float16"), "teacher.server.k is 8"),
        (TopKKind(k=4, values="float16", temperature=2.0), "temperature 2"),
        (SampledKind(draws=4), "the whole distribution"),
        (FullKind(), "no output head"),
        (HiddenStatesKind(layers=(1,)), "these layers"),
    ],
)
def test_what_it_does_not_give_is_refused_before_anything_is_asked(
    kind: TopKKind | SampledKind | FullKind | HiddenStatesKind,
    reason: str,
    served: ServedTeacher,
    server: FaultyServer,
    tmp_path: Path,
) -> None:
    with pytest.raises(DistillabError) as caught:
        recorded(served, SPLIT.rows, tmp_path / "cache", width=W, kind=kind)
    assert reason in str(caught.value) and not server.asked


def test_a_row_without_an_answer_is_never_trained_on(
    served: ServedTeacher, server: FaultyServer, tmp_path: Path
) -> None:
    server.script = [Status(500)]
    with pytest.raises(TeacherError, match="Too many rows failed"):
        recorded(served, SPLIT.rows, tmp_path / "cache", width=W)
    recorded(served, SPLIT.rows, tmp_path / "cache", width=W)
    assert len(server.asked) == len(SPLIT.rows) + 1  # what was answered before is not asked for again


def test_what_rows_will_take_is_printed_before_and_after_the_first_ones(
    served: ServedTeacher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(served, SPLIT.rows, tmp_path / "cache", width=W)
    tokens = sum(len(row) for row in SPLIT.rows)
    scored = sum(int(row.answer_mask.sum()) for row in SPLIT.rows)
    err = capsys.readouterr().err
    assert f"12 rows, about {tokens} tokens read, at most {scored} generated" in err
    assert f"12 rows, by the first 12: {tokens} tokens read, 12 generated" in err
    assert served.cost is not None and served.cost.requests == 12 and served.cost.prompt_tokens == tokens
