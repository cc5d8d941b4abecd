"""Finished runs of the tiny world: whole weights, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.config.run import RunRecipe
from distillab.runs.run import execute

LORA = {"rank": 2, "alpha": 8, "targets": ["q_proj", "down_proj"]}


def execute_tiny(tiny_world: dict[str, Any], output: Path, **changes: Any) -> Path:
    """Execute a run of two steps, and return its folder."""
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    values["training"] = values["training"] | {"steps": 2, "checkpoint_every": 2}
    values["evaluation"] = values["evaluation"] | {"generate_rows": 0}
    execute(RunRecipe(**{**values, "method": "logits", "output": str(output), "name": "tiny", **changes}))
    return output


@pytest.fixture(scope="session")
def whole(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STUDY/runs/logits/seed0, so that a study's results can be put beside it."""
    return execute_tiny(tiny_world, tmp_path_factory.mktemp("whole") / "runs" / "logits" / "seed0")


@pytest.fixture(scope="session")
def adapted(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    student = {**tiny_world["student"], "adapter": LORA, "save_as": "adapter"}
    return execute_tiny(tiny_world, tmp_path_factory.mktemp("adapted") / "run", student=student)
