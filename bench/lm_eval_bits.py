"""`python -m bench.lm_eval_bits`: bits per byte here and by EleutherAI's lm-evaluation-harness, on the same text.

Needs `lm_eval` (0.4.13) in an environment of its own, beside this package. Two cases: a tokenizer with a begin token,
where both score every token of a text; and one without, where nothing predicts the first token, so the harness is given
it as the context. `--record FILE` keeps the harness's figures of the first case, which a test compares without it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import GPT2Config, GPT2LMHeadModel

from bench.machine import ROOT
from distillab.data.examples import Example, text_example
from distillab.data.reading import Reader, load_reader
from distillab.evaluation.likelihood import score_rows
from distillab.evaluation.summary import bits_per_byte
from distillab.models.loading import load_model
from distillab.pairing.loading import load_tokenizer

ROWS, TOKENS = 8, 512
STORIES = "text/tinystories/stories_dev.jsonl"


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: both agree within 1e-6."""
    parser = argparse.ArgumentParser(prog="python -m bench.lm_eval_bits", description=__doc__)
    parser.add_argument("--record", type=Path, default=None)
    options = parser.parse_args(arguments)
    folder = Path(os.environ.get("DISTILLAB_MATERIALS", ROOT.parent / "shared" / "data"))
    lines = (folder / STORIES).read_text(encoding="utf-8").splitlines()[:ROWS]
    texts = [json.loads(line)["text"] for line in lines]
    examples = [text_example(str(n), STORIES, text=text, prompt_share=0.25) for n, text in enumerate(texts)]

    model = folder / "models" / "stories260K-tok512"
    harness = _rolling(model, texts)
    if options.record:
        record = {
            "lm_eval": importlib.metadata.version("lm_eval"),
            "model": model.name,
            "rows": [{"nats": -found, "bytes": len(t.encode())} for found, t in zip(harness, texts, strict=True)],
        }
        options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    worst = _compare("begin token", model, examples, harness, [len(text.encode()) for text in texts])

    with tempfile.TemporaryDirectory() as place:
        torch.manual_seed(0)
        tokenizer = load_tokenizer(str(folder / "tokenizers" / "gpt2")).tokenizer
        shape = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=1024)
        GPT2LMHeadModel(shape).save_pretrained(place)
        tokenizer.save_pretrained(place)
        heads = [tokenizer.decode(tokenizer(text)["input_ids"][:1]) for text in texts]
        pairs = [(head, text[len(head) :]) for head, text in zip(heads, texts, strict=True)]
        asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        found = [nats for nats, _ in _harness(Path(place)).loglikelihood(asked)]
        worst = max(worst, _compare("none", Path(place), examples, found, [len(rest.encode()) for _, rest in pairs]))
    return int(worst > 1e-6)


def _harness(folder: Path) -> HFLM:
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1, add_bos_token=False)


def _rolling(folder: Path, texts: Sequence[str]) -> list[float]:
    found: list[float] = _harness(folder).loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    )
    return found


def _compare(
    name: str, folder: Path, examples: Sequence[Example], harness: Sequence[float], sizes: Sequence[int]
) -> float:
    """Print both figures; the relative difference."""
    reader: Reader = load_reader(str(folder), revision=None, template="plain", kind="text", max_tokens=TOKENS)
    model = load_model(str(folder), dtype="float32", device=torch.device("cpu"), revision=None, role="student")
    rows = reader.encoder.encode_all(examples, source=STORIES).rows
    assert not any(row.truncated for row in rows)
    scores = score_rows(model, rows, collator=reader.collator(), batch_size=4, stop_ids=reader.encoder.stop_ids)
    here = bits_per_byte(scores, scored_bytes=sum(map(reader.encoder.scored_bytes, examples)))
    there = -sum(harness) / math.log(2) / sum(sizes)
    apart = abs(here / there - 1)
    print(f"{name:12} here {here:.9f}   lm-eval {there:.9f}   relative difference {apart:.1e}")
    return apart


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
