"""`python -m bench.encoding`: how fast rows are encoded, and what a start costs by number of rows.

speed: tokens a CPU second of the tokenizers library alone (`encode_batch_fast` of the rendered texts, ids as lists) and
of `Encoder.encode_all`, medians of five interleaved rounds. rows: from the file to the first batch of a run with a
teacher and a tenth of the rows held out, each in a new process, the first time and from the store. templates: which
chat templates of a folder are rendered anew for every conversation. metrics: reading the measurements of 200,000
steps.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from bench.machine import ROOT
from bench.rows import write_rows

MATERIALS = Path(os.environ.get("DISTILLAB_MATERIALS", ROOT.parent / "shared" / "data"))
NUMBERS = (10_000, 250_000, 500_000, 1_000_000)
TOKENIZERS = ("gpt2", "tinyllama-1.1b", "mistral-7b-v0.1", "tok512")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = CHATML.replace("m['content'] +", "m['content'].split('</think>')[-1] +")
MACRO = "{% macro said(text) %}{{ text }}{% endmacro %}" + CHATML.replace("m['content'] +", "said(m['content']) +")
CASES = [("dolly/dev.jsonl", "plain"), ("gsm8k/train.jsonl", "plain"), ("tinystories/stories_dev.jsonl", "plain")]
CASES += [("dolly/dev.jsonl", CHATML), ("gsm8k/train.jsonl", CHATML), ("gsm8k/train.jsonl", THINKING)]
CASES += [("gsm8k/train.jsonl", MACRO)]
_ROUNDS = 5
_STEPS = 200_000


def speed(tokenizers: list[str]) -> None:
    """Print a table of tokenizers and texts."""
    from distillab.config.data import DataConfig
    from distillab.data.border import _variants
    from distillab.data.encoding import Encoder
    from distillab.data.splits import load_examples
    from distillab.data.templates import resolve_template
    from distillab.pairing.loading import load_tokenizer

    print("| tokenizer | text | template | tokens a row | library, tokens a CPU s | ours | ours / library |")
    print("|---|---|---|---|---|---|---|")
    for file, template in CASES:
        path = str(MATERIALS / "text" / file)
        splits = load_examples(DataConfig.model_validate({"train": {"path": path}}))
        examples = list(splits.train)[:1_000]
        for name in tokenizers:
            tokenizer = load_tokenizer(str(MATERIALS / "tokenizers" / name)).tokenizer
            tokenizer.eos_token = tokenizer.eos_token or "<|endoftext|>"
            tokenizer.chat_template = None if template == "plain" else template
            form = resolve_template("plain" if template == "plain" else "chat", tokenizer, splits.shape.kind)
            _variants.cache_clear()  # as the library's, ours has no words of the case before
            encoder = Encoder(tokenizer, form, sys.maxsize)
            texts = ["".join(segment.text for segment in form.render(example)) for example in examples]
            backend = tokenizer.backend_tokenizer

            def library(texts: list[str] = texts, backend: Any = backend) -> int:
                return sum(len(found.ids) for found in backend.encode_batch_fast(texts, add_special_tokens=False))

            def ours(encoder: Encoder = encoder, examples: Any = examples) -> int:
                return encoder.encode_all(examples, source="rows").counts.tokens

            rounds = [(_rate(library), _rate(ours)) for _ in range(_ROUNDS)]
            alone, own = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(mine / theirs for theirs, mine in rounds)
            names = {CHATML: "chat", THINKING: "chat that looks into answers", MACRO: "chat with a macro"}
            shown = names.get(template, template)
            print(
                f"| {name} | {file.partition('/')[0]} | {shown} | {library() / len(texts):.0f} | {alone:,.0f} "
                f"| {own:,.0f} | {ratio:.2f} |",
                flush=True,
            )


def _rate(work: Callable[[], int]) -> float:
    began = time.process_time()
    return work() / (time.process_time() - began)


def templates(folder: Path) -> None:
    """Print which templates are rendered anew; the others are compared with rendering anew."""
    from distillab.data.chat_template import ChatTemplate
    from distillab.errors import DataError
    from distillab.pairing.loading import load_tokenizer

    tokenizer = load_tokenizer(str(MATERIALS / "tokenizers" / "gpt2")).tokenizer
    tokenizer.bos_token = tokenizer.eos_token = "<|endoftext|>"
    texts = (
        "long text",
        " Short\n",
        "b <{{ x }}>",
        "<think>\na\n</think>\n\nyes",
        "",
        "<tool_response>x</tool_response>",
    )
    talks = [
        [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
        for said in itertools.product(texts, texts, texts[:3])
        for roles in (("user", "assistant"), ("system", "user", "assistant"))
    ]

    def rendered(template: ChatTemplate, talk: list[dict[str, str]], *, ask: bool) -> str:
        try:
            return template.render(talk, add_generation_prompt=ask, origin="")
        except DataError as error:
            return error.rule

    files, slow = sorted(folder.glob("*.jinja")), []
    for file in files:
        tokenizer.chat_template = file.read_text()
        kept, anew = (ChatTemplate(tokenizer, datetime.date(2026, 12, 1)) for _ in range(2))
        anew._fills = False
        for talk, ask in itertools.product(talks, (False, True)):
            turns = talk[:-1] if ask else talk
            assert rendered(kept, turns, ask=ask) == rendered(anew, turns, ask=ask), file
        if not kept._fills:
            slow.append(file.stem)
    print(f"{len(files)} templates; rendered anew: {len(slow)} ({', '.join(slow)})")


def start_here(path: str, model: str) -> dict[str, float]:
    """Load the inputs of a run in this process, and make the first batch."""
    from distillab.config.run import RunRecipe
    from distillab.runs.environment import peak_rss_bytes
    from distillab.runs.inputs import load_inputs
    from distillab.runs.training_data import training_data

    values = {"student": {"path": model}, "teacher": {"path": model}, "data": {"train": {"path": path}}}
    recipe = RunRecipe.model_validate(values | {"training": {"device": "cpu"}})
    imported, began = time.process_time(), time.monotonic()
    inputs = load_inputs(recipe, weights=False)
    data = training_data(inputs, inputs.train)
    data.collator([cast(Any, data.rows)[place] for place in range(8)])
    return {
        "imports": imported,
        "start": time.process_time() - imported,
        "wall": time.monotonic() - began,
        "tokens": inputs.train.counts.tokens,
        "held_out": inputs.held_out_counts.kept,
        "MiB": peak_rss_bytes() / 2**20,
    }


def rows(numbers: list[int]) -> None:
    """Print a table of first and second starts; student and teacher have gpt2's tokenizer."""
    from transformers import GPT2Config

    print("| rows | training tokens | held-out rows | start | imports, CPU s | start, CPU s | wall s | peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            path, model = Path(folder, "rows.jsonl"), Path(folder, "model")
            write_rows(path, number)
            shutil.copytree(MATERIALS / "tokenizers" / "gpt2", model)
            GPT2Config().save_pretrained(model)
            for start in ("first", "second"):
                command = [sys.executable, "-m", "bench.encoding", "start", "--file", str(path), "--model", str(model)]
                environment = os.environ | {"DISTILLAB_CACHE": folder}
                done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout)
                print(
                    f"| {number:,} | {found['tokens']:,} | {found['held_out']:,} | {start} | {found['imports']:.1f} "
                    f"| {found['start']:.1f} | {found['wall']:.1f} | {found['MiB']:.0f} |",
                    flush=True,
                )


def metrics() -> None:
    """Print what it costs to read the measurements of a long run."""
    from distillab.runs.environment import peak_rss_bytes
    from distillab.runs.journal import read_journal

    line = {"terms": {"forward_kl": 1.2345678901234}, "counts": {"forward_kl": 812}, "weights": {"forward_kl": 1.0}}
    line |= {"loss": 1.2345678901234, "grad_norm": 0.98765432101, "learning_rate": 1e-4, "tokens_per_s": 12345.678}
    line |= {"supervised_tokens": 812, "tokens": 2048, "teacher_tokens": 2048}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.jsonl")
        with path.open("w") as file:
            file.writelines(json.dumps({"step": step} | line) + "\n" for step in range(1, _STEPS + 1))
        before, began = peak_rss_bytes(), time.process_time()
        read_journal(path, steps=_STEPS)
        grown = (peak_rss_bytes() - before) / 2**20
        print(f"{_STEPS:,} steps: {time.process_time() - began:.1f} CPU s, {grown:.0f} MiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "rows", "templates", "metrics", "start"))
    parser.add_argument("--rows", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--tokenizers", nargs="+", default=TOKENIZERS)
    parser.add_argument("--folder", type=Path, help="of `templates`: it has .jinja files")
    parser.add_argument("--file", help="of `start`, which `rows` runs in new processes")
    parser.add_argument("--model", help="of `start`: folder of student and teacher")
    options = parser.parse_args()
    if options.what == "start":
        print(json.dumps(start_here(options.file, options.model)))
    elif options.what == "rows":
        rows(options.rows)
    elif options.what == "speed":
        speed(options.tokenizers)
    elif options.what == "templates":
        templates(options.folder)
    else:
        metrics()


if __name__ == "__main__":
    main()
