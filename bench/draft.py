"""A student as draft model of its teacher: how many of its tokens the teacher accepts, and the time that it saves.

    python -m bench.draft TEACHER STUDENT ROWS.jsonl [--rows 8] [--tokens 64]

Greedy, one row at a time, by `generate(assistant_model=…)` of transformers; the text is the teacher's own, which is
checked. Time is that of the processor in one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from distillab.pairing.loading import load_tokenizer


def passes(model: PreTrainedModel) -> Callable[[], int]:
    """Count the forward passes of a model from now on."""
    calls = [0]

    def one_more(*_: Any) -> None:
        calls[0] += 1

    model.register_forward_hook(one_more)
    return lambda: calls[0]


def main() -> None:
    """Print acceptance, tokens a pass of the teacher, and both times."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("teacher", "student", "data"):
        options.add_argument(name)
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    given = options.parse_args()
    torch.set_num_threads(1)
    teacher, student = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (given.teacher, given.student)
    )
    tokenizer = load_tokenizer(given.teacher).tokenizer
    lines = Path(given.data).read_text(encoding="utf-8").splitlines()[: given.rows]
    texts = [next(str(row[key]) for key in ("prompt", "text") if key in row) for row in map(json.loads, lines)]
    prompts = [torch.tensor([tokenizer(text).input_ids[:24]]) for text in texts]
    settings: dict[str, Any] = {"max_new_tokens": given.tokens, "do_sample": False}

    def timed(**more: Any) -> tuple[list[list[int]], float]:
        start = time.process_time()
        answers = [
            teacher.generate(ids, attention_mask=torch.ones_like(ids), **settings, **more)[0].tolist()
            for ids in prompts
        ]
        return answers, time.process_time() - start

    timed(assistant_model=student)  # the first calls are slower
    alone, alone_s = timed()
    of_teacher, of_student = passes(teacher), passes(student)
    drafted, drafted_s = timed(assistant_model=student)
    written = sum(len(answer) - ids.shape[1] for answer, ids in zip(drafted, prompts, strict=True))
    same = sum(a == b for a, b in zip(alone, drafted, strict=True))
    accepted = (written - of_teacher()) / of_student()
    print(f"{same} of {len(alone)} texts are the teacher's own; {written} tokens")
    print(f"accepted: {accepted:.1%} of {of_student()} drafted tokens")
    print(f"tokens a pass of the teacher: {written / of_teacher():.2f}")
    print(f"processor time: {alone_s:.2f} s alone, {drafted_s:.2f} s with the draft: × {alone_s / drafted_s:.2f}")


if __name__ == "__main__":
    main()
