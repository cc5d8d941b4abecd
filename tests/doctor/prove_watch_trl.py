"""`watch` on TRL's own SFTTrainer and GKDTrainer, in the environment of `make bench-peers`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / ".venv-peers" / "bin" / "python"
SOUND = ("sft", "sft chats", "sft packed", "sft run", "gkd", "gkd on-policy", "gkd run")
# training -> the ids of which one ends it, and the most steps that it has made by then
FAULTS = {
    "sft mask not read": ({"prompt-in-loss"}, 0),
    "sft mask of the prompts": ({"mask-inverted"}, 0),
    "sft no completion": ({"all-masked-rows"}, 0),
    "sft other tokenizer": ({"ids-of-another-tokenizer"}, 0),
    "sft nan": ({"nan-shown-as-zero", "gradient-not-finite", "loss-not-finite"}, 5),
    "sft rate zero": ({"learning-rate-zero"}, 10),
    "gkd nothing scored": ({"all-masked-rows"}, 0),
    "gkd other tokenizer": ({"ids-of-another-tokenizer"}, 0),
}
WARNINGS = {"gkd head cut": "bos-missing", "sft pad is eos": "eos-not-scored"}


@pytest.fixture(scope="module")
def watched(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    if not PEERS.exists():
        pytest.skip("TRL is in an environment of its own: make bench-peers")
    out = tmp_path_factory.mktemp("watched") / "found.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "HF_HUB_OFFLINE": "1"}
    command = [str(PEERS), "-m", "bench.doctor.trl_watched", str(out), str(materials)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_training_goes_on_to_its_end(name: str, watched: dict[str, dict[str, Any]]) -> None:
    assert watched[name]["ended"] is None and watched[name]["trained"], watched[name]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_ends_the_training(name: str, watched: dict[str, dict[str, Any]]) -> None:
    one, (ids, most) = watched[name], FAULTS[name]
    assert one["ended"] is not None and any(found in one["ended"] for found in ids), one
    assert one["step"] <= most and one["trained"] == (most > 0 and name != "sft rate zero"), one


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_is_told_and_the_training_goes_on(name: str, watched: dict[str, dict[str, Any]]) -> None:
    one = watched[name]
    assert one["ended"] is None and one["trained"] and WARNINGS[name] in one["found"], one


def test_every_training_is_judged(watched: dict[str, dict[str, Any]]) -> None:
    assert set(watched) == {*SOUND, *FAULTS, *WARNINGS}
