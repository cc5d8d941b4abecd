"""vLLM itself, on the CPU: `make prove-served`. It is no part of `make test`: its environment takes 3.4 GB.

The model is the small Mistral-tokenised one of the materials, in float32. vLLM's log-probabilities are a float32
log-softmax; so they are compared with transformers' logits under the same one. A float64 one differs by 5e-5.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillab.cache.next_tokens import TopK
from distillab.config.cache import TopKKind
from distillab.config.served import ServerConfig
from distillab.data.encoding import EncodedRow
from distillab.models.generation import Decoding, Generated
from distillab.records import TeacherProvenance
from distillab.teachers.local import LocalTeacher
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.errors import RowFailed
from distillab.teachers.served.journal import AnswerJournal
from distillab.teachers.served.scoring import score_row, score_rows
from distillab.teachers.served.teacher import ServedTeacher
from tests.cli.conftest import call
from tests.processes import ROOT
from tests.served.conftest import SmallMistral
from tests.served.test_llama_cpp import TEXTS
from tests.served.test_recipes import OWN, Recipe, losses, recipes_of
from tests.served.test_teacher import CPU, recorded

PYTHON = ROOT / ".venv" / "served" / "bin" / "python"
START_S = 600
W = 32_000
TOLERANCE_NATS = 1e-5  # of the k most likely and the actual token
ALL_NATS = 3e-5  # of all 32,000, down to probabilities of 1e-9
CACHE_NATS = 1e-4  # the local one is made by another softmax
pytestmark = pytest.mark.timeout(START_S + 300)

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # so that it takes weights
}


@pytest.fixture(scope="session")
def untied(small_mistral: SmallMistral, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a head of its own: on a CPU vLLM does not reload one that is tied to the embeddings."""
    folder = tmp_path_factory.mktemp("untied")
    model = copy.deepcopy(small_mistral.model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    model.save_pretrained(folder)
    small_mistral.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm(untied: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    folder = tmp_path_factory.mktemp("vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = {
        "--model": str(untied),
        "--served-model-name": "stories",
        "--dtype": "float32",
        "--max-model-len": "512",
        "--max-num-seqs": "8",
        "--max-logprobs": "-1",
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    flags = ["--no-enable-prefix-caching", "--enforce-eager"]
    # the command `vllm` looks for a package of that name; the module is there
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *(w for pair in words.items() for w in pair)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | SETTINGS
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *flags], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url, folder / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(url + "/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"vLLM does not answer after {START_S} s:\n" + log.read_text(errors="replace")[-3000:])


@pytest.fixture
def client(vllm: str, tmp_path: Path) -> Iterator[Client]:
    journal = AnswerJournal(tmp_path / "answers")
    client = Client(ServerConfig(url=vllm, dialect="vllm", model="stories"), journal, tokenizer="small mistral")
    yield client
    client.close()
    journal.close()


@pytest.fixture
def recipe(materials: Path, tmp_path: Path) -> Recipe:
    return recipes_of(materials / "models" / "smallmistral-stories", tmp_path)


def rows(small_mistral: SmallMistral, *, k: int) -> list[Wanted]:
    each = [[*small_mistral.tokenizer(text).input_ids, 2] for text in TEXTS]
    return [Wanted(ids, range(1, len(ids)), k, W, f"row {number}") for number, ids in enumerate(each)]


@torch.no_grad()
def errors(small_mistral: SmallMistral, wanted: Wanted, got: TopK) -> tuple[float, float, float]:
    """Largest difference from transformers: of the entries and of the actual token; and from a float64 softmax."""
    logits = small_mistral.model(torch.tensor([list(wanted.ids)])).logits[0, :-1]
    logp, ids = logits.log_softmax(-1), torch.from_numpy(got.ids).long()
    actual = logp.gather(1, torch.tensor(list(wanted.ids))[1:, None])[:, 0]
    kept = torch.from_numpy(got.logp)
    top = logp.topk(wanted.k).values  # no more likely token is missing
    entries = max((kept - logp.gather(1, ids)).abs().max(), (kept - top).abs().max())
    exact = (kept.double() - logits.double().log_softmax(-1).gather(1, ids)).abs().max()
    return float(entries), float((torch.from_numpy(got.actual_logp) - actual).abs().max()), float(exact)


def test_it_is_found_and_passes_the_probe(vllm: str, materials: Path) -> None:
    model = str(materials / "models" / "smallmistral-stories")
    code, out, err = call("teacher", "probe", vllm, "--path", model, "--weights")
    print(out)
    assert code == 0, out + err
    assert out.splitlines()[0] == f"{vllm}: vllm" and sum(line.startswith("  ok ") for line in out.splitlines()) == 9


def test_log_probabilities_are_those_of_transformers(client: Client, small_mistral: SmallMistral) -> None:
    found = []
    for wanted, got in score_rows(client, Vllm(), rows(small_mistral, k=16)):
        assert not isinstance(got, RowFailed), got
        found.append(errors(small_mistral, wanted, got))
    entries, actual, exact = np.max(found, axis=0)
    print(f"16 most likely: {entries:.1e}, actual token: {actual:.1e}, against a float64 softmax: {exact:.1e} nats")
    assert max(entries, actual) < TOLERANCE_NATS


def test_k_goes_up_to_the_vocabulary(client: Client, small_mistral: SmallMistral) -> None:
    wanted = rows(small_mistral, k=W)[0]
    got = score_row(client, Vllm(), wanted)
    entries, _, _ = errors(small_mistral, wanted, got)
    print(f"all {W}: {entries:.1e} nats over {len(wanted.scored)} positions")
    assert got.ids.shape == (len(wanted.scored), W) and np.isneginf(got.tail_logmass).all()
    assert entries < ALL_NATS


def test_a_cache_built_from_it_is_the_local_one(client: Client, small_mistral: SmallMistral, tmp_path: Path) -> None:
    encoded = [
        EncodedRow(key=str(n), input_ids=np.array(row.ids, np.int32), answer_mask=np.arange(len(row.ids)) >= 1,
                   prompt_length=1)
        for n, row in enumerate(rows(small_mistral, k=16))
    ]  # fmt: skip
    source = ServedTeacher(client, Vllm(), width=W, name="served", template_sha256="0", device=CPU)
    here = TeacherProvenance(name="local", weights_sha256="0", parameters=0, dtype="float32", template_sha256="0")
    kind = TopKKind(k=16, values="float16")
    caches = [
        recorded(source, encoded, tmp_path / "served", width=W, kind=kind),
        recorded(LocalTeacher(small_mistral.model, here), encoded, tmp_path / "local", width=W, kind=kind),
    ]
    equal, largest = [], 0.0
    for one, other in zip(*(cache.read(range(len(encoded)), ["top_k"]) for cache in caches), strict=True):
        got, wanted = one.sections["top_k"], other.sections["top_k"]
        np.testing.assert_array_equal(got.ids, wanted.ids)
        for name in ("logp", "actual_logp"):
            values, due = getattr(got, name), getattr(wanted, name)
            equal.append((values == due).ravel())
            step = np.spacing(np.abs(due).astype(np.float16)).astype(np.float64)  # of float16, in which both are stored
            largest = max(largest, float((np.abs(values - due) - step).max()))
        np.testing.assert_allclose(np.exp(got.tail_logmass), np.exp(wanted.tail_logmass), rtol=4e-3, atol=1e-4)
    share = np.concatenate(equal).mean()
    print(
        f"caches of {len(encoded)} rows: equal ids, {share:.1%} of the values equal, beyond float16 {largest:.1e} nats"
    )
    assert largest < CACHE_NATS and share > 0.8


def train(*recipes: str) -> None:
    for path in recipes:
        code, _, err = call("train", path)
        assert code == 0, err


def from_local(run: Path) -> float:
    """The largest difference of a run's three losses from those of the run `local` beside it, as a share of them."""
    found, wanted = (np.array(losses(folder)) for folder in (run, run.parent / "local"))
    assert len(found) == len(wanted) == 3
    return float(np.abs(found / wanted - 1).max())


def test_training_on_it_and_on_its_cache_is_training_on_the_weights(
    recipe: Recipe,
    vllm: str,
    materials: Path,
    tmp_path: Path,
) -> None:
    model = str(materials / "models" / "smallmistral-stories")
    served = recipe("served", teacher={"path": model, "server": {"url": vllm}})
    code, _, err = call("cache", "build", served)
    assert code == 0, err
    cached = recipe("cached", teacher={"cache": str(tmp_path / "served" / "cache")})
    train(served, cached, recipe("local", teacher={"path": model, "dtype": "float32"}))
    differences = [from_local(tmp_path / name) for name in ("served", "cached")]
    print(f"three steps: the loss differs by {differences[0]:.1e} of it; from its cache by {differences[1]:.1e}")
    assert differences[0] < 1e-5 and differences[1] < 1e-3  # the cache holds float16
    found = json.loads((tmp_path / "served" / "run.json").read_text())["servers"]
    assert [one["dialect"] for one in found] == ["vllm"] and found[0]["backend"].startswith("stories/vllm")


def test_what_a_student_writes_is_scored_as_by_the_weights(
    recipe: Recipe,
    vllm: str,
    materials: Path,
    tmp_path: Path,
) -> None:
    model = str(materials / "models" / "smallmistral-stories")
    teachers = {"served": {"server": {"url": vllm}}, "local": {"dtype": "float32"}}
    train(*(recipe(name, teacher={"path": model, **one}, **OWN) for name, one in teachers.items()))
    difference = from_local(tmp_path / "served")
    print(f"three steps of which the student writes a half: the loss differs by {difference:.1e} of it")
    assert difference < 1e-5


@torch.no_grad()
def greedy(small_mistral: SmallMistral, ids: list[int], *, tokens: int, stop_ids: tuple[int, ...]) -> Generated:
    """Without a cache, token by token."""
    written: list[int] = []
    while len(written) < tokens:
        next_ = int(small_mistral.model(torch.tensor([[*ids, *written]])).logits[0, -1].argmax())
        if next_ in stop_ids:
            return Generated(tuple(written), next_)
        written.append(next_)
    return Generated(tuple(written), None)


def test_answers_are_those_of_transformers(client: Client, small_mistral: SmallMistral) -> None:
    full_stop = small_mistral.tokenizer.convert_tokens_to_ids(".")
    prompts = [small_mistral.tokenizer(text).input_ids for text in TEXTS]
    for stop_ids in ((2,), (full_stop, 2)):
        sampling = Sampling(Decoding(max_new_tokens=32), stop_ids, seed=0)
        for number, ids in enumerate(prompts):
            asked = Vllm().answer_call(Prompt(str(number), tuple(ids)), sampling)
            assert client.ask(asked.call, asked.read) == greedy(small_mistral, ids, tokens=32, stop_ids=stop_ids)


# ---------------------------------------------------------------- the last ones: they change the server's weights


def on_policy(recipe: Recipe, name: str, student: str, url: str, tmp_path: Path) -> str:
    sampler = {"server": {"url": url}, "folder": str(tmp_path / "weights")}
    answers = {"from": "student", "max_new_tokens": 16, "sampler": sampler}
    training = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, "device": "cpu"}
    return recipe(
        name,
        student={"path": student, "dtype": "float32"},
        answers=answers,
        terms=[{"kind": "token_divergence", "divergence": "reverse_kl"}],
        training=training,
    )


def test_it_writes_the_student_s_answers_with_the_weights_of_each_step(
    recipe: Recipe,
    vllm: str,
    untied: Path,
    tmp_path: Path,
) -> None:
    student = AutoModelForCausalLM.from_pretrained(untied)
    torch.manual_seed(0)
    for parameter in student.parameters():
        parameter.data += 0.05 * parameter.std() * torch.randn_like(parameter)  # so that the teacher is another
    student.save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(untied).save_pretrained(tmp_path / "student")
    code, _, err = call("train", on_policy(recipe, "sampled", str(tmp_path / "student"), vllm, tmp_path))
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "sampled" / "metrics.jsonl").read_text().splitlines()]
    figures = [line["rollout"] for line in lines if "rollout" in line]
    gaps = [one["sampler_gap"] for one in figures]
    print(f"sampler_gap of four steps: {', '.join(f'{gap:.1e}' for gap in gaps)} nats")
    assert len(gaps) == 4 and max(gaps) < TOLERANCE_NATS
    assert all(0 < one["tokens"] <= 3 * 16 for one in figures)
    assert "a repeated run can draw others" in (tmp_path / "sampled" / "run.json").read_text()


def test_a_server_that_keeps_an_old_head_is_caught(
    recipe: Recipe,
    vllm: str,
    materials: Path,
    tmp_path: Path,
) -> None:
    tied = str(materials / "models" / "smallmistral-stories")
    code, _, err = call("train", on_policy(recipe, "half", tied, vllm, tmp_path))
    print(err)
    assert code == 1 and "does not have the student's weights" in err
