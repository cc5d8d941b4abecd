"""The benchmarks measure what they say: their arithmetic against references, and that all cases do the same step."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import distillab_steps, floor, gpu, hand, pair, peers, table
from bench.commands import measure
from bench.loss_memory import loss_memory
from bench.measure import MIB, Probe, percentile, repeat
from bench.processes import Failed, environment
from bench.settings import ACROSS_BASE, CASES, GPU, PEERS, SIZES, SUITE, TARGETS, WITHOUT_TEACHER, Block, Run
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
TINY = SIZES["tiny"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- clocks and memory


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20), st.floats(0, 1))
def test_percentile_is_that_of_numpy(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.percentile(values, 100 * share)), abs=1e-9)


def test_the_warm_up_is_not_timed_and_the_steps_are() -> None:
    probe, turns = Probe(warmup=1, steps=3), [0]

    def step() -> float:
        turns[0] += 1
        busy = 0.15 if turns[0] == 1 else 0.03
        end = time.process_time() + busy
        while time.process_time() < end:
            pass
        return float(turns[0])

    repeat(step, probe)
    assert turns == [4]
    assert probe.losses == [1.0, 2.0, 3.0, 4.0]
    assert [step.cpu_s for step in probe.measured] == pytest.approx([0.03] * 3, abs=0.02)
    assert all(step.wall_s >= 0.025 for step in probe.measured)


def test_memory_counts_from_before_the_first_step_to_the_measured_peak() -> None:
    probe = Probe(warmup=1, steps=2)
    kept: list[bytearray] = []
    turns = [0]

    def step() -> None:
        turns[0] += 1
        if turns[0] == 1:
            kept.append(_touched(40))  # stays: optimizer state, for instance
            _touched(300)  # only the warm-up needs it
        _touched(60)

    repeat(step, probe)
    if not probe.peak_reset:
        pytest.skip("this kernel does not let the peak be reset")
    assert (probe.peak_bytes - probe.base_bytes) / MIB == pytest.approx(100, abs=15)


def test_a_profiled_probe_sees_one_step_more_and_does_not_time_it() -> None:
    probe, turns = Probe(warmup=1, steps=2, profiler=gpu.profiler("cpu")), [0]

    def step() -> None:
        turns[0] += 1
        torch.ones(8, 8) @ torch.ones(8, 8)

    repeat(step, probe)
    assert turns == [4]
    assert len(probe.measured) == 2
    top = gpu.top_ten(probe.profiler, "cpu")
    assert {row["name"]: row["calls"] for row in top}["aten::mm"] == 1
    assert 0.9 < sum(row["share"] for row in top) <= 1.0001


# ---------------------------------------------------------------- the same step everywhere


def test_the_hand_written_gradients_are_those_of_the_dense_loss() -> None:
    torch.manual_seed(0)
    count, vocabulary = 2 * hand.HAND_CHUNK_ROWS + 3, 40
    inputs = [torch.randn(count, 6), torch.randn(vocabulary, 6), torch.randn(count, 5), torch.randn(vocabulary, 5)]
    hidden, head = inputs[0].requires_grad_(), inputs[1].requires_grad_()
    loss = hand.FusedForwardKL.apply(*inputs)  # type: ignore[no-untyped-call]
    (3 * loss).backward()
    h, w, teacher, teacher_head = (value.detach().double().requires_grad_() for value in inputs)
    p = torch.softmax(teacher @ teacher_head.T, dim=1)
    q = torch.softmax(h @ w.T, dim=1)
    dense = (p * (p.log() - q.log())).sum() / count
    (3 * dense).backward()
    assert loss.item() == pytest.approx(dense.item(), rel=1e-5)
    for got, expected in ((hidden.grad, h.grad), (head.grad, w.grad)):
        assert got is not None
        assert expected is not None
        assert torch.allclose(got.double(), expected, rtol=1e-4, atol=1e-7)


def test_the_floor_makes_the_three_products_of_every_supervised_row() -> None:
    torch.manual_seed(0)
    rows, count, vocabulary = floor.FLOOR_TILE_ROWS, floor.FLOOR_TILE_ROWS + 7, 20
    hidden, head, given_rows = torch.randn(count, 4), torch.randn(vocabulary, 4), torch.randn(rows, vocabulary)
    logits = torch.empty(rows, vocabulary)
    grad_hidden, grad_head = floor.head_products(hidden, head, logits, given_rows)
    whole = torch.cat([given_rows, given_rows[: count - rows]])
    assert torch.allclose(grad_hidden, whole @ head, atol=1e-5)
    assert torch.allclose(grad_head, whole.T @ hidden, atol=1e-4)
    assert torch.allclose(logits[: count - rows], hidden[rows:] @ head.T, atol=1e-5)


def test_our_trainer_and_the_hand_written_loop_take_the_same_steps() -> None:
    losses = {}
    for case, function in (("hand_kl", hand.hand_kl), ("forward_kl", distillab_steps.train)):
        probe = Probe(warmup=1, steps=3)
        function(Run(case, size="tiny"), probe)
        assert len(probe.measured) == 3
        losses[case] = probe.losses
    assert losses["forward_kl"] == pytest.approx(losses["hand_kl"], rel=1e-5)
    assert losses["forward_kl"][0] > losses["forward_kl"][-1] > 0


def test_packed_rows_are_the_same_tokens_in_full_sequences() -> None:
    size = SIZES["llama"]
    assert (size.rows, size.row_length, size.tokens) == (32, 256, 8192)
    settings = distillab_steps.training_config(Run("sft", size="llama"), steps=1)
    assert (settings.packing, settings.batch_size) == (True, 32)
    split = distillab_steps.split_of(size)
    assert [len(row) for row in split.rows] == [256] * 32
    assert sum(int(row.answer_mask.sum()) for row in split.rows) == size.tokens // 2
    assert {row.prompt_length for row in split.rows} == {128}


# ---------------------------------------------------------------- settings


def test_every_case_leads_to_a_function() -> None:
    for case, place in CASES.items():
        module, name = place.split(":")
        # read, not imported: TRL is in another environment
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, case
    assert {case for case, place in CASES.items() if place == "bench.distillab_steps:train"} == set(
        distillab_steps.TERMS
    )
    assert {
        case for case in distillab_steps.TERMS if all(term.access == "none" for term in distillab_steps.TERMS[case])
    } <= WITHOUT_TEACHER


def test_what_a_whole_run_measures_is_known_and_each_ratio_has_its_base() -> None:
    for block in (*SUITE, *PEERS, *GPU):
        cases = {run.case for run in block.runs}
        assert cases <= set(CASES)
        assert {run.size for run in block.runs} <= set(SIZES)
        assert {"floor", ACROSS_BASE} & cases or block in GPU or cases == {"loss_memory"}
        assert len(set(block.runs)) == len(block.runs)
    judged = [{run.case for run in block.runs} for block in (*SUITE, *PEERS)]
    assert all(any({target.case, target.base} <= cases for cases in judged) for target in TARGETS)


def test_the_benchmarks_alone_decide_on_threads_and_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    plain = environment(Run("sft", threads=2))
    assert "MALLOC_TRIM_THRESHOLD_" not in plain
    assert plain["OMP_NUM_THREADS"] == "2"
    assert environment(Run("sft", allocator="raised"))["MALLOC_MMAP_THRESHOLD_"] == "4294967296"


# ---------------------------------------------------------------- ratios and tables


def _record(case: str, number: int, seconds: float, **values: Any) -> dict[str, Any]:
    record = {
        "block": "B",
        "round": number,
        "case": case,
        "size": "small",
        "threads": 1,
        "allocator": "default",
        "tokens": 2048,
        "steps_s": [{"wall_s": 2 * seconds, "user_s": 0.75 * seconds, "sys_s": 0.25 * seconds}] * 3,
        "training_bytes": 100 * MIB,
        "peak_reset": True,
        "machine": {"cpu": "X", "load": "0.50"},
        "versions": {"torch": "2", "trl": "absent"},
        "commit": "abc",
    }
    return record | values


def test_a_ratio_is_made_within_its_round() -> None:
    # the second round stood in a busy minute: twice the time for everyone
    records = [_record(case, n, s * n) for n in (1, 2) for case, s in (("floor", 1.0), ("forward_kl", 1.5))]
    records.append(_record("floor", 3, 40.0))  # its partner failed
    found = table.ratio(records, "forward_kl", "floor", lambda record: table.cpu_s(record)[0])
    assert found == pytest.approx(1.5)
    assert table.ratio(records, "forward_kl", "trl_gkd", lambda record: 1.0) is None


def test_the_report_says_figures_ratios_and_targets() -> None:
    records = [
        _record("floor", 1, 1.0),
        _record("logits", 1, 2.0, training_bytes=50 * MIB),
        _record("logits+hidden_states", 1, 2.1),
        _record("forward_kl", 1, 1.2, peak_reset=False),
        _record("sft", 1, 0.6),
        _record("floor_sft", 1, 0.5),
    ]
    text = table.report(records)
    assert "| logits+hidden_states | 2.100 (2.100, 2.100) | 0.525 | 4.200 | 488 | 2.10 | logits +5 % | 100 |" in text
    assert "| sft | 0.600 (0.600, 0.600) | 0.150 | 1.200 | 1,707 | 1.20 |  | 100 |" in text  # over the floor of SFT
    assert "| forward_kl / floor, cpu, malloc default | ≤ 1.10 | 1.20 | no |" in text
    assert "| logits+hidden_states / logits, cpu, malloc default | ≤ 1.10 | 1.05 | yes |" in text
    assert "cpu X; load 0.50 to 0.50; torch 2; commit abc" in text
    assert "clear_refs" in text
    # measured elsewhere: no word on a target
    assert table.targets([record | {"size": "large"} for record in records]) == ""


def test_a_gpu_has_columns_of_its_own() -> None:
    top = [{"name": "aten::mm", "calls": 3, "ms": 12.0, "share": 0.6}]
    text = table.report(
        [
            _record("forward_kl", 1, 1.0, gpu="G", utilisation=0.5, gpu_peak_bytes=7 * MIB, top_ten=top),
            _record("sft", 1, 1.0, gpu="G", utilisation=None, gpu_peak_bytes=5 * MIB),
        ]
    )
    assert "| 100 | 50.0 % | 7 |" in text
    assert "| 100 | unknown device | 5 |" in text
    assert "| aten::mm | 3 | 12.0 | 60.0% |" in text


def test_the_memory_of_the_loss_leaves_out_its_results() -> None:
    probe = Probe(warmup=0, steps=1)
    loss_memory(Run("loss_memory", size="tiny"), probe)
    assert probe.facts["supervised"] == TINY.tokens // 2
    # float32 gradients of (supervised, student width) and (vocabulary, student width)
    assert probe.facts["results_bytes"] == 4 * 16 * (TINY.tokens // 2 + TINY.vocabulary)
    assert probe.facts["loss_bytes"] == max(0, probe.peak_bytes - probe.base_bytes - probe.facts["results_bytes"])
    line = _record("loss_memory", 1, 1.0, allocator="exact", supervised=1024, vocabulary=32_000, results_bytes=2 * MIB)
    assert "| exact | 1,024 | 32,000 | 125 | 2 | 9 |" in table.report([line | {"loss_bytes": 9 * MIB}])


def test_losses_or_weights_that_differ_stop_the_comparison() -> None:
    ours_ = {"digest": ["a", "b"], "losses": [0.5, 0.4]}
    assert "largest relative difference" in peers.compare(ours_, {"digest": ["a", "b"], "losses": [0.5001, 0.4]})
    for wrong in (
        {"digest": ["a", "c"], "losses": [0.5, 0.4]},
        {"digest": ["a", "b"], "losses": [0.5, 0.401]},
        {"digest": ["a", "b"], "losses": [0.5, float("nan")]},
    ):
        with pytest.raises(Failed):
            peers.compare(ours_, wrong)


def test_flops_are_those_that_torch_counts() -> None:
    size = TINY
    ids = pair.token_ids(size)

    def counted(model: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(ids, use_cache=False)
        return int(counter.get_total_flops())

    def needed(model: Any, side: Any) -> float:
        # torch counts attention unmasked and the head at every position; half of each is needed
        attention = 2 * size.tokens * side.blocks * size.length * side.width
        head = size.tokens * size.vocabulary * side.width
        return counted(model) - attention - head

    student, teacher = pair.student_of(size), pair.teacher_of(size)
    for model in (student, teacher):
        model.config._attn_implementation = "eager"  # its products are counted on a CPU
    alone = 3 * needed(student, size.student)
    assert gpu.step_flops(size, with_teacher=False) == pytest.approx(alone, rel=1e-3)
    assert gpu.step_flops(size, with_teacher=True) == pytest.approx(alone + needed(teacher, size.teacher), rel=1e-3)


# ---------------------------------------------------------------- the command line


def test_one_case_from_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    options = ("--size", "tiny", "--warmup", "1", "--steps", "2", "--output", str(output))
    command = [sys.executable, "-m", "bench", "case", "hand_kl", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text(encoding="utf-8"))
    assert (record["case"], len(record["steps_s"]), len(record["losses"])) == ("hand_kl", 2, 3)
    assert record["machine"]["cores"]
    assert record["versions"]["torch"] == torch.__version__
    assert "| hand_kl |" in done.stdout


@pytest.mark.parametrize(("python", "said"), [("false", "ended with code 1"), ("absent", "make bench-peers")])
def test_a_case_that_fails_is_said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: str, said: str
) -> None:
    monkeypatch.setattr("bench.processes.PEERS_PYTHON", Path(shutil.which(python) or tmp_path / python))
    assert measure([Block("B", (Run("trl_gkd", size="tiny"),), rounds=2)], tmp_path / "o.jsonl") == 1
    streams = capfd.readouterr()
    assert streams.err.count(said) == 2
    assert "2 measurements failed" in streams.err
    assert "Nothing was measured." in streams.out


def _touched(mib: int) -> bytearray:
    # more than glibc ever serves from its heap, so it is a mapping of its own and gone when it is freed
    return bytearray(b"\1") * (mib * MIB)
