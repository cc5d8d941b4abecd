"""Trainers of TRL, really run under `watch`: with a fault in them, and without.

    bench/.venv-peers/bin/python -m bench.doctor.trl_watched OUT.json MATERIALS [NAME …]

OUT.json: name -> ids of the findings, the step at which `watch` ended the training, whether it had trained by then.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]
from trl.experimental.gkd import GKDConfig, GKDTrainer  # type: ignore[import-not-found]

from bench.doctor import trl_distilling, trl_runs
from bench.doctor.trl_settings import plain
from bench.doctor.trl_worlds import PLAIN, World, tiny
from distillab.doctor import watch
from distillab.doctor.batch.audit import Learns
from distillab.errors import FaultFound

_FEW: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 4}


def mask_of_the_prompts(world: World) -> SFTTrainer:
    """completion_mask has its ones where the prompt is."""
    tokenizer = world.tokenizer("tinyllama-1.1b", "<unk>")
    rows = []
    for row in world.sums(24):
        front = tokenizer(row["prompt"]).input_ids
        back = [*tokenizer(row["completion"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        rows.append({"input_ids": front + back, "completion_mask": [1] * len(front) + [0] * len(back)})
    return SFTTrainer(
        model=tiny(tokenizer),
        args=plain(SFTConfig, **_FEW, completion_only_loss=True),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def tokenizer_of_the_teacher(world: World, *, gkd: bool) -> Any:
    """The model is loaded from its folder, and the trainer is given the teacher's tokenizer of as many tokens."""
    folder = tempfile.mkdtemp()
    own = world.tokenizer("tinyllama-1.1b", "<unk>", PLAIN)
    tiny(own).save_pretrained(folder)
    own.save_pretrained(folder)
    other = world.tokenizer("mistral-7b-v0.1", "<unk>", PLAIN)
    student = AutoModelForCausalLM.from_pretrained(folder)
    if not gkd:
        return SFTTrainer(student, args=plain(SFTConfig, **_FEW), train_dataset=world.sums(24), processing_class=other)
    return GKDTrainer(
        model=student,
        teacher_model=tiny(other),
        args=plain(GKDConfig, **_FEW, lmbda=0.0),
        train_dataset=world.chats(24),
        processing_class=other,
    )


def gkd_on_policy(world: World) -> Any:
    """The student writes every answer, inside of training_step."""
    arguments = plain(GKDConfig, **_FEW, lmbda=1.0, max_new_tokens=8, max_length=1024)
    return trl_distilling._chats(world, GKDTrainer, arguments)


def sft_short_run(world: World) -> SFTTrainer:
    """On stories, with an evaluation every 20 steps."""
    return trl_runs._run(world, learning_rate=3e-3, max_steps=30)


def gkd_short_run(world: World) -> Any:
    """From the real small teacher, without evaluation."""
    settings = {"max_steps": 30, "learning_rate": 3e-3, "max_length": 160}
    return trl_distilling._distil(world, GKDTrainer, plain(GKDConfig, lmbda=0.0, beta=0.0, **settings))


WATCHED: dict[str, tuple[Callable[[World], Any], Learns | None]] = {
    "sft": (trl_runs.SFT["completion"], "answers"),
    "sft chats": (trl_runs.assistant_turns, "answers"),
    "sft packed": (trl_runs.SFT["best_fit_packing"], "answers"),
    "sft run": (sft_short_run, "text"),
    "gkd": (trl_distilling.DISTILLING["gkd_chats"], "answers"),
    "gkd on-policy": (gkd_on_policy, "answers"),
    "gkd run": (gkd_short_run, "text"),
    "sft mask not read": (trl_runs.completion_mask_ignored, "answers"),
    "sft mask of the prompts": (mask_of_the_prompts, "answers"),
    "sft no completion": (trl_runs.nothing_scored, "text"),
    "sft pad is eos": (trl_runs.collator_of_transformers, None),
    "sft other tokenizer": (functools.partial(tokenizer_of_the_teacher, gkd=False), "answers"),
    "sft nan": (trl_runs.SFT["nan_run"], "text"),
    "sft rate zero": (trl_runs.SFT["rate_zero"], "text"),
    "gkd nothing scored": (trl_distilling.gkd_nothing_scored, "answers"),
    "gkd other tokenizer": (functools.partial(tokenizer_of_the_teacher, gkd=True), "answers"),
    "gkd head cut": (trl_distilling.gkd_head_of_the_prompt_cut, "answers"),
}


def run(make: Callable[[World], Any], learns: Learns | None, world: World) -> dict[str, Any]:
    """Train under `watch`, and return what it found."""
    torch.manual_seed(0)
    trainer = make(world)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    ended: str | None = None
    found: set[str] = set()
    try:
        watching = watch(trainer, learns=learns)
        trainer.train()
        found = {finding.id for finding in watching.investigation.findings if finding.severity != "note"}
    except FaultFound as fault:
        ended = fault.rule
    same = all(torch.equal(*both) for both in zip(before, trainer.model.parameters(), strict=True))
    return {"ended": ended, "found": sorted(found), "step": trainer.state.global_step, "trained": not same}


def main(arguments: list[str]) -> int:
    """Run the named trainers, or all."""
    out, world = Path(arguments[0]), World(Path(arguments[1]))
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    results = {}
    for name in arguments[2:] or WATCHED:
        results[name] = run(*WATCHED[name], world)
        print(name, results[name], flush=True)
    out.write_text(json.dumps(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
