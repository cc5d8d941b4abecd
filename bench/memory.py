"""`python -m bench.memory`: what `distillab estimate` says that a run will take of the memory, beside what it took.

Every set-up is estimated in one fresh process and trained in another, whose largest resident memory is what the system
counted. The runs are short: what they take at once does not depend on how many steps there are. glibc's malloc gives
freed memory back at once there: by default it keeps some, how much is another in each run and on each machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from bench.machine import ROOT
from bench.settings import EXACT

# of what was measured
ALLOWED = 0.15
_ROWS = 160
_CHILD = """
import json, sys
from pathlib import Path
from distillab.config.loader import load_recipe
from distillab.config.run import RunRecipe
from distillab.cli.console import quiet_libraries
quiet_libraries()
recipe = load_recipe(RunRecipe, Path(sys.argv[2]))
if sys.argv[1] == "estimate":
    from distillab.preflight.memory import estimated
    from dataclasses import asdict
    print(json.dumps(asdict(estimated(recipe, processes=int(sys.argv[3])))))
else:
    from distillab.runs.run import execute
    from distillab.runs.environment import peak_rss_bytes
    execute(recipe)
    print(json.dumps({"peak": peak_rss_bytes()}))
"""
_DEEPSPEED = Path(sys.prefix) / "parallel" / "deepspeed"  # beside the environment


@dataclass(frozen=True)
class SetUp:
    """One recipe.

    Attributes:
        name: in the table.
        teacher, student: folders of the materials' models; a student with a name that ends in `*` is drawn at random.
        changes: of the recipe.
        wide: layers and width of a student that is drawn with the student's tokenizer; None: as it is.
        cached: the teacher is read from a cache.
        adapter: of the student, whose own weights are frozen.
        steps: of the run; the second has all that later ones have.
        processes: over which the run is divided.
        parallel: how it divides student and teacher; None: not, or by DeepSpeed.
        of_equals: the teacher has the student's shape.
        joined: stories that make one row.
    """

    name: str
    student: str
    teacher: str | None
    changes: Mapping[str, Any]
    wide: tuple[int, int] | None = None
    cached: bool = False
    adapter: Mapping[str, Any] | None = None
    steps: int = 4
    processes: int = 1
    parallel: Mapping[str, int] | None = None
    of_equals: bool = False
    joined: int = 1

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed divides it."""
        return "deepspeed" in self.changes


_LOGITS = {"method": "logits", "terms": [{"kind": "token_divergence"}]}
_LONG = {"batch_size": 8, "max_tokens": 384}
_FEW = {"batch_size": 4, "max_tokens": 384}
_EQUALS = SetUp(
    "the same, fsdp 2 on two processes",
    "smallmistral-stories",
    "smallmistral-stories",
    {**_LOGITS, **_FEW},
    wide=(8, 512),
    steps=2,
    processes=2,
    parallel={"fsdp": 2},
    of_equals=True,
)
SETUPS: Sequence[SetUp] = (
    SetUp("3.3 M teaches 0.26 M", "stories260K-tok512", "bitllama-3M-tok512", {**_LOGITS, **_LONG}),
    SetUp("the same, white box", "stories260K-tok512", "bitllama-3M-tok512", {"method": "white_box", **_LONG}),
    SetUp("0.26 M alone, 32 rows", "stories260K-tok512", None, {"method": "sft", "batch_size": 32, "max_tokens": 384}),
    SetUp("4.9 M, 32,000 ids", "smallmistral-stories", "smallmistral-stories", {**_LOGITS, **_LONG}),
    SetUp("the same from a cache", "smallmistral-stories", "smallmistral-stories", {**_LOGITS, **_LONG}, cached=True),
    SetUp("two tokenizers", "stories260K-tok512", "smallmistral-stories", {"method": "span_likelihood", **_LONG}),
    SetUp("58 M, 32,000 ids", "smallmistral-stories", "smallmistral-stories", {**_LOGITS, **_LONG}, wide=(8, 512)),
    SetUp(
        "the same, rows one by one",
        "smallmistral-stories",
        "smallmistral-stories",
        {**_LOGITS, **_LONG, "microbatch_size": 1},
        wide=(8, 512),
    ),
    SetUp(
        "58 M with LoRA",
        "smallmistral-stories",
        "smallmistral-stories",
        {**_LOGITS, **_LONG},
        wide=(8, 512),
        adapter={"rank": 16},
    ),
    replace(_EQUALS, name="58 M teaches 58 M", processes=1, parallel=None),
    _EQUALS,
    *(
        SetUp(
            f"58 M, ZeRO-{stage} on two processes",
            "smallmistral-stories",
            "smallmistral-stories",
            {**_LOGITS, **_FEW, "deepspeed": stage},
            wide=(8, 512),
            steps=2,
            processes=2,
        )
        for stage in (2, 3)
    ),
    *(
        SetUp(
            f"one row of {tokens:,} tokens, 9 M teaches 9 M",
            "smallmistral-stories",
            "smallmistral-stories",
            {**_LOGITS, "batch_size": 1, "max_tokens": tokens, "gradient_checkpointing": True},
            wide=(4, 128),
            steps=2,
            of_equals=True,
            joined=tokens // 128,
        )
        for tokens in (2_048, 4_096, 8_192)
    ),
)


@dataclass(frozen=True)
class Measured:
    """Bytes of one set-up.

    Attributes:
        parts: what the estimate is made of.
        peak: what the run took, in the largest of its processes.
    """

    name: str
    parts: Mapping[str, int]
    peak: int

    @property
    def estimate(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def off(self) -> float:
        """How far the estimate is from the run, relatively."""
        return self.estimate / self.peak - 1


def main(arguments: Sequence[str]) -> int:
    """0: every estimate is within the limit; 1: one is not; 2: the materials are not there."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="set-ups whose name contains this")
    chosen = parser.parse_args(arguments)
    materials = Path(os.environ.get("DISTILLAB_MATERIALS", ROOT / ".." / "shared" / "data")).resolve()
    if not materials.is_dir():
        print("DISTILLAB_MATERIALS names no folder", file=sys.stderr)
        return 2
    found = []
    for setup in SETUPS:
        if setup.deepspeed and not _DEEPSPEED.is_dir():
            print(f"{setup.name}: left out, DeepSpeed is not in {_DEEPSPEED}", file=sys.stderr)
        elif chosen.only is None or chosen.only in setup.name:
            found.append(measured(setup, materials))
            print(_line(found[-1]), flush=True)
    return int(any(abs(one.off) > ALLOWED for one in found))


def measured(setup: SetUp, materials: Path) -> Measured:
    """Estimate and run of a set-up, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="distillab-memory-") as scratch:
        folder = Path(scratch)
        recipe = folder / "recipe.yaml"
        values = _recipe(setup, materials, folder)
        if setup.cached:
            recipe.write_text(json.dumps(values | {"cache": {"folder": str(folder / "cache")}}), encoding="utf-8")
            _call(["distillab", "cache", "build", str(recipe)])
            values["teacher"] = {"cache": str(folder / "cache")}
        recipe.write_text(json.dumps(values), encoding="utf-8")
        child = folder / "child.py"
        child.write_text(_CHILD, encoding="utf-8")
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={setup.processes}"]
        last = [str(child), "run", str(recipe)]
        # first the estimate, which encodes the rows and stores them: the run has no peak from that
        parts = _call([sys.executable, str(child), "estimate", str(recipe), str(setup.processes)]).splitlines()[-1]
        ran = _call([sys.executable, *(launch if setup.processes > 1 else []), *last], deepspeed=setup.deepspeed)
    peaks = [int(found) for found in re.findall(r'\{"peak": (\d+)\}', ran)]
    return Measured(setup.name, json.loads(parts), max(peaks))


def _recipe(setup: SetUp, materials: Path, folder: Path) -> dict[str, Any]:
    lines = (materials / "text" / "tinystories" / "stories_dev.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    held, texts = texts[-40:], texts[:-40]
    learned = [" ".join(texts[at : at + setup.joined]) for at in range(0, len(texts), setup.joined)]
    train, held_out = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, written in ((train, learned[:_ROWS]), (held_out, held)):
        path.write_text("\n".join(json.dumps({"text": text}) for text in written), encoding="utf-8")
    changes = dict(setup.changes)
    training = {
        "steps": setup.steps,
        "checkpoint_every": setup.steps,
        "device": "cpu",
        "batch_size": changes.pop("batch_size"),
        "microbatch_size": changes.pop("microbatch_size", None),
        "deepspeed": changes.pop("deepspeed", None),
        "gradient_checkpointing": changes.pop("gradient_checkpointing", None),
    }
    models = materials / "models"
    student: dict[str, Any] = {"path": str(models / setup.student)}
    if setup.wide is not None:
        student = {"path": str(_wide(models / setup.student, setup.wide, folder / "wide")), "init": "random"}
    if setup.adapter is not None:
        config = AutoConfig.from_pretrained(student["path"])
        AutoModelForCausalLM.from_config(config).save_pretrained(student["path"])
        student = {"path": student["path"], "adapter": setup.adapter}
    values: dict[str, Any] = {
        "student": student,
        "data": {
            "train": {"path": str(train)},
            "held_out": {"path": str(held_out)},
            "prompt_share": 0.25,
            "max_tokens": changes.pop("max_tokens"),
        },
        "training": {name: value for name, value in training.items() if value is not None},
        "evaluation": {"rows": 16, "curve_rows": 8, "generate_rows": 8, "max_new_tokens": 32},
        "output": str(folder / "run"),
        **changes,
    }
    if setup.teacher is not None:
        values["teacher"] = {"path": str(models / setup.teacher)}
    if setup.of_equals:
        config = AutoConfig.from_pretrained(student["path"])
        AutoModelForCausalLM.from_config(config).save_pretrained(student["path"])
        values["teacher"] = {"path": student["path"]}
    if setup.parallel is not None:
        values["student"] = {**student, "parallel": setup.parallel}
        values["teacher"]["parallel"] = setup.parallel
    return values


def _wide(source: Path, shape: tuple[int, int], folder: Path) -> Path:
    """The config of `source` with another number of layers and another width, beside its tokenizer."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layers, width = shape
    config |= {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "head_dim": width // config["num_attention_heads"],
        "tie_word_embeddings": False,
        "max_position_embeddings": 8_192,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _call(words: Sequence[str], *, deepspeed: bool = False) -> str:
    environment = {**os.environ, **EXACT}
    if deepspeed:
        paths = [str(_DEEPSPEED), environment.get("PYTHONPATH", str(ROOT / "src"))]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(list(words), capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-8000:])
    return done.stdout


def _line(found: Measured) -> str:
    gib = 2**30
    parts = ", ".join(f"{name} {size / gib:.2f}" for name, size in found.parts.items())
    return f"| {found.name} | {found.peak / gib:.2f} | {found.estimate / gib:.2f} | {found.off:+.0%} | {parts} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
