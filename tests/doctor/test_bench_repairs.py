"""What the bench of planted faults has shown to be missed, or called an error wrongly, at its first run."""

from __future__ import annotations

import json
import math
from pathlib import Path

from distillab.doctor import audit_batch, audit_run
from distillab.pairing.loading import load_tokenizer

LOG_V = math.log(512)


def test_rows_that_lost_their_beginning(materials: Path) -> None:
    tokenizer = load_tokenizer(str(materials / "tokenizers" / "tinyllama-1.1b")).tokenizer
    ids = tokenizer(" ".join(f"word {n}" for n in range(40))).input_ids
    short, long = ids[:12] + [0] * 8, ids[1:21]
    batch = {"input_ids": [short, long, ids[5:25]], "labels": [short[:12] + [-100] * 8, long, ids[5:25]]}
    found = {f.id: f for one in audit_batch(batch, tokenizer) for f in one.findings}
    assert found["bos-missing"].title == "The longest rows have lost their beginning."
    batch["input_ids"][1] = batch["labels"][1] = ids[:20]
    batch["input_ids"][2] = batch["labels"][2] = ids[:20]
    assert "bos-missing" not in {f.id for one in audit_batch(batch, tokenizer) for f in one.findings}


def _found(tmp_path: Path, losses: list[float], held_out: dict[int, float], norms: float = 1.0) -> dict[str, str]:
    rows = []
    for step, loss in enumerate(losses, 1):
        row = {"step": step, "loss": loss, "grad_norm": norms, "learning_rate": 1e-3}
        rows.append(row | ({"eval_loss": held_out[step]} if step in held_out else {}))
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    checks = audit_run(path, vocabulary=512, random_student=True).checks
    return {finding.id: finding.severity for one in checks for finding in one.findings}


def _noisy(step: int) -> float:
    return 0.02 * math.sin(7.3 * step)


def test_a_first_loss_far_above_log_v_is_no_multiple_where_the_held_out_loss_is_as_large(tmp_path: Path) -> None:
    losses = [6 + 44 * math.exp(-step / 15) for step in range(120)]
    losses[0] = 8.02 * LOG_V
    held_out = {step: losses[step - 1] for step in range(10, 121, 10)}
    found = _found(tmp_path, losses, held_out)
    assert "initial-loss-far-from-uniform" in found
    assert "accumulation-rescales" not in found


def test_a_softmax_taken_twice_stays_near_log_v(tmp_path: Path) -> None:
    losses = [LOG_V - 0.13 * min(1.0, step / 50) + _noisy(step) / 5 for step in range(120)]
    assert "loss-flat-near-uniform" in _found(tmp_path, losses, {})


def test_both_losses_at_a_hundredth_of_log_v(tmp_path: Path) -> None:
    losses = [0.07 + (LOG_V - 0.07) * math.exp(-step / 20) for step in range(250)]
    held_out = {step: losses[step - 1] for step in range(10, 251, 10)}
    assert "loss-too-good" in _found(tmp_path, losses, held_out)
    higher = {step: value + 0.05 for step, value in held_out.items()}
    assert "loss-too-good" not in _found(tmp_path, losses, higher)


def test_one_broken_batch_in_fifteen(tmp_path: Path) -> None:
    losses = [4.6 + _noisy(step) + (3.0 if step % 15 == 14 else 0.0) for step in range(120)]
    assert found_spikes(tmp_path, losses)
    assert not found_spikes(tmp_path, [4.6 + _noisy(step) for step in range(120)])


def found_spikes(tmp_path: Path, losses: list[float]) -> bool:
    return "loss-spikes" in _found(tmp_path, losses, {})


def test_rows_learned_by_heart_beyond_log_v_are_overfitting_too(tmp_path: Path) -> None:
    losses = [LOG_V * math.exp(-step / 40) + 0.05 for step in range(250)]
    held_out = {step: 5.0 + 8.0 * (step - 10) / 240 for step in range(10, 251, 10)}
    found = _found(tmp_path, losses, held_out)
    assert {"overfitting", "held-out-above-uniform"} <= set(found)


def test_weights_thrown_at_the_start(tmp_path: Path) -> None:
    losses = [LOG_V, *(40 * math.exp(-step / 40) + 5 + _noisy(step) for step in range(119))]
    assert found_thrown(tmp_path, losses)
    assert not found_thrown(tmp_path, [LOG_V * math.exp(-step / 400) + _noisy(step) for step in range(120)])


def found_thrown(tmp_path: Path, losses: list[float]) -> bool:
    return "loss-diverges" in _found(tmp_path, losses, {})
