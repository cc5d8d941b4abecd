"""Several teachers of one run, and several processes that ask for one teacher, each write what they are answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillab.cache.verify import verify
from distillab.config.run import RunRecipe
from distillab.models.generation import Decoding
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.runs.teacher_server import TeacherServer
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.errors import ServerError
from distillab.teachers.served.exchange import Paid, Usage
from distillab.teachers.served.journal import ANSWERS, AnswerJournal, file_of, paid_in
from distillab.teachers.stored.location import Part, part_of
from tests.cli.conftest import call, dumped
from tests.processes import Forked, ended, start_distillab, together
from tests.served.conftest import llama_cpp
from tests.served.faulty_server import FaultyServer, serving
from tests.tiny_world import save_tiny

TOP_K = [{"kind": "top_k_divergence", "k": 16}]
PAID = Paid(Usage(3, 1, 2), 1, 0.5)
ROWS, HELD_OUT = 60, 20
GREEDY = Sampling(Decoding(8), (2,), seed=0)


@pytest.fixture
def values(tiny_world: dict[str, Any], tiny_server: str, tmp_path: Path) -> dict[str, Any]:
    """A run with a served teacher."""
    teacher = {**tiny_world["teacher"], "server": {"url": tiny_server, "dialect": "llama_cpp"}}
    named = {name: value for name, value in tiny_world.items() if name != "seeds"}
    return named | {"teacher": teacher, "method": "logits", "terms": TOP_K, "output": str(tmp_path / "run")}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.answers"))


def succeeded(processes: list[Forked]) -> None:
    for process in processes:
        code, err = ended(process)
        assert code == 0, err[-3000:]


def test_a_writer_reads_what_others_have_written_before_and_since(tmp_path: Path) -> None:
    first, second = (AnswerJournal(tmp_path, file_of(worker, 2)) for worker in (0, 1))
    for key, journal in ((b"a" * 16, first), (b"b" * 16, second)):
        journal.store_answer(key, key * 9, PAID)
    for journal in (first, second, AnswerJournal(tmp_path)):
        assert [journal.get(key * 16) for key in (b"a", b"b", b"c")] == [b"a" * 144, b"b" * 144, None]
        assert len(journal) == 2
    assert paid_in(tmp_path) == PAID + PAID


def test_two_workers_build_a_cache_at_once_and_nothing_is_asked_twice(values: dict[str, Any], tmp_path: Path) -> None:
    cache = {"kinds": [{"kind": "top_k", "k": 16}, {"kind": "text"}], "rows_per_shard": 8}
    recipe = dumped(values | {"cache": cache}, tmp_path / "recipe.yaml")
    succeeded([start_distillab("cache", "build", recipe, "--worker", f"{worker}/2") for worker in (0, 1)])
    location = tmp_path / "run" / "cache"
    signals, answers = tmp_path / "run" / "served", location / "text" / "served"
    names = ["served-0-of-2.answers", "served-1-of-2.answers"]
    assert files(signals) == files(answers) == names
    assert paid_in(signals).requests >= ROWS + HELD_OUT  # a row with rare tokens takes several
    assert paid_in(answers).requests == ROWS
    parts: tuple[Part, ...] = ("train", "held_out", "text")
    for part in parts:
        assert verify(part_of(str(location), part)).complete
    before = paid_in(signals), paid_in(answers)
    assert call("cache", "build", recipe)[0] == 0 and call("train", recipe)[0] == 0
    assert (paid_in(signals), paid_in(answers)) == before
    # the run reads the journal of the workers, and has in its record what all of them took
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["cost"]["served"]["requests"] == before[0].requests


@pytest.mark.slow
def test_training_in_two_processes_is_training_in_one(values: dict[str, Any], tmp_path: Path) -> None:
    losses = {}
    for name in ("one", "two"):
        training = {**values["training"], "batch_size": 8, "steps": 4}
        recipe = dumped(values | {"training": training, "output": str(tmp_path / name)}, tmp_path / f"{name}.yaml")
        words = ("train", recipe)
        started = [start_distillab(*words)] if name == "one" else together("distillab.cli.main", *words)
        succeeded(started)
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in lines if "loss" in line]
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-4) and len(losses["one"]) == 4
    assert files(tmp_path / "one" / "served") == ["served.answers"]
    assert files(tmp_path / "two" / "served") == ["served-0-of-2.answers", "served-1-of-2.answers"]
    assert paid_in(tmp_path / "two" / "served").requests == paid_in(tmp_path / "one" / "served").requests


def test_max_cost_is_the_limit_of_all_that_a_study_asks_a_server_for(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    """An answer is 10 tokens read and 4 generated; they cost 1 each."""
    prices = {"prompt": 1e6, "cached": 0, "completion": 1e6}
    named = {name: value for name, value in tiny_world.items() if name not in ("seeds", "teacher")}
    with serving(FaultyServer(paths=("/v1/chat/completions",))) as app, serving(FaultyServer(paths=app.paths)) as other:

        def answers(address: str, place: str, first: int) -> list[Any]:
            """Ten answers, as another start of the same study asks for them."""
            server = {"url": address, "model": "m", "prices": prices, "max_cost": 14 * 15, "concurrency": 1}
            values = named | {
                "teacher": {"server": server},
                "method": "seqkd",
                "output": str(tmp_path / "study/runs/a"),
            }
            teacher = TeacherServer(load_inputs(RunRecipe(**values)), tmp_path / "study" / "served" / "a", ANSWERS)
            asked = [Prompt(str(n), (5,), (("user", f"question {n}"),)) for n in range(first, first + 10)]
            return list(teacher.writer(tmp_path / "study" / place).answers(asked, GREEDY))

        assert len(answers(app.url, "answers/a/served", 0)) == 10
        assert len(answers(other.url, "answers/b/served", 0)) == 10  # another server has a limit of its own
        for _ in range(2):
            with pytest.raises(ServerError, match="max_cost") as caught:
                answers(app.url, "served/teacher", 10)
            assert "spent: 210 in 15 requests" in str(caught.value)


@pytest.mark.parametrize("method", ["logits", "seqkd"])
def test_two_teachers_behind_servers_are_read_as_two_with_weights(
    values: dict[str, Any], tiny_server: str, tmp_path: Path, method: str
) -> None:
    first = values.pop("teacher")["path"]
    second = save_tiny(tmp_path / "second", 7, Path(first), layers=2)
    for split in ("train", "held_out"):
        rows = [json.loads(line) for line in Path(values["data"][split]["path"]).read_text().splitlines()]
        named = [json.dumps(row | {"by": ("math", "chat")[number % 2]}) + "\n" for number, row in enumerate(rows)]
        (tmp_path / f"{split}.jsonl").write_text("".join(named))
    data = {split: {"path": str(tmp_path / f"{split}.jsonl")} for split in ("train", "held_out")}
    values |= {"data": values["data"] | data | {"teacher_column": "by"}}
    values |= {"method": method, "terms": TOP_K if method == "logits" else None}
    with llama_cpp(second, tmp_path) as other:
        records = {}
        for name in ("here", "served"):
            teachers = {"math": {"path": first}, "chat": {"path": str(second)}}
            if name == "served":
                teachers["math"]["server"] = {"url": tiny_server}  # type: ignore[assignment]
                teachers["chat"]["server"] = {"url": other}  # type: ignore[assignment]
            records[name] = execute(RunRecipe(**values | {"teachers": teachers, "output": str(tmp_path / name)}))
    nats = {name: record.evaluation.nats_per_token for name, record in records.items()}
    if method == "logits":  # the draws of answers are the server's own
        assert nats["served"] == pytest.approx(nats["here"], abs=1e-3)
    found = {one.parent.relative_to(tmp_path / "served") for one in (tmp_path / "served").rglob("served.answers")}
    where = "served/{}" if method == "logits" else "answers/{}/served"
    assert found == {Path(where.format(name)) for name in ("math", "chat")}
    assert len(records["served"].servers) == 2
