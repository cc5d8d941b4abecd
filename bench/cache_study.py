"""A whole study, five arms and three seeds on the demo's world, with its teacher asked once or at every step."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cache_pairs import demo
from bench.machine import ROOT
from distillab.config.evaluation import EvaluationConfig
from distillab.config.student import StudentConfig
from distillab.config.study import ArmConfig, StudyRecipe
from distillab.config.teacher import TeacherConfig
from distillab.config.terms import TokenDivergenceConfig

ARMS = (
    ArmConfig(name="sft", method="sft"),
    ArmConfig(name="logits", method="logits", terms=(TokenDivergenceConfig(),)),
    ArmConfig(name="hidden_states", method="hidden_states"),
    ArmConfig(name="attention", method="attention"),
    ArmConfig(name="white_box", method="white_box"),
)
SEEDS = (0, 1, 2)
HOW = ("online", "cached")


def study(rounds: int, *, folder: Path, steps: int) -> list[dict[str, Any]]:
    """One entry a way and round: seconds on the wall and of CPU time of the whole command.

    Args:
        folder: of a finished demo.
        steps: of every run.
    """
    found = []
    for number in range(1, rounds + 1):
        for how in HOW:
            with tempfile.TemporaryDirectory() as output:
                recipe = Path(output) / "recipe.yaml"
                recipe.write_text(_recipe(folder, how, steps, output).model_dump_json(indent=1), encoding="utf-8")
                before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "distillab.cli.main", "compare", str(recipe)],
                    cwd=ROOT,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found.append({"round": number, "case": how, "steps": steps, "wall_s": wall, "cpu_s": cpu})
    return found


def _recipe(folder: Path, how: str, steps: int, output: str) -> StudyRecipe:
    pair = demo(folder, steps=steps)
    return StudyRecipe.model_validate(
        {
            "title": f"A short study, {how}",
            "student": StudentConfig(path=pair.student, tokenizer=pair.teacher, init="random"),
            "teacher": TeacherConfig(path=pair.teacher),
            "data": pair.data,
            "arms": ARMS,
            "seeds": SEEDS,
            "training": pair.training,
            "evaluation": EvaluationConfig(rows=420, curve_rows=100, generate_rows=0, batch_size=100),
            "workers": 2,  # one thread each, as the demo
            "teacher_signals": how,
            "output": str(Path(output) / "study"),
        }
    )
