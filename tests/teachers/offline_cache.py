"""A small cache with every kind of signal, written by a loop from a tiny real teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from distillab.cache.activations import StateArray, States, StatesLayout
from distillab.cache.identity import CacheIdentity, TeacherSizes
from distillab.cache.layout import TokensLayout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.cache.rows import CachedRow
from distillab.cache.writer import CacheWriter
from distillab.data.encoding import EncodedRow
from distillab.records import TeacherProvenance
from tests.training.conftest import VOCABULARY, ragged_split, tiny_llama

K, DRAWS, ROWS, WIDTH = 8, 5, 48, 32
SPLIT = ragged_split(ROWS, seed=4)


def sharp_teacher() -> LlamaForCausalLM:
    """Random weights with a head that makes it sure of itself, so that there is something to learn."""
    model = tiny_llama(7).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return model


def an_identity(**changes: Any) -> CacheIdentity:
    width = (VOCABULARY - 1).bit_length()
    values: dict[str, Any] = {
        "teacher": TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0"),
        "revision": None,
        "sizes": TeacherSizes(blocks=2, width=WIDTH, heads=4, key_value_heads=2, head_width=8),
        "tokenizer": "0",
        "template_sha256": "0",
        "width": VOCABULARY,
        "source": "rows",
        "rows": ROWS,
        "rows_sha256": "0",
        "tokens": TokensLayout(id_bits=width),
        "layouts": (
            TopKLayout(k=K, id_bits=width, values="float16", temperature=1.0),
            SampledLayout(draws=DRAWS, id_bits=width, count_bits=3, temperature=1.0),
            StatesLayout(
                kind="hidden_states",
                positions="answer",
                arrays=(
                    StateArray(name="layer.1", width=WIDTH, store="float32"),
                    StateArray(name="layer.2", width=WIDTH, store="bfloat16"),
                ),
            ),
            StatesLayout(
                kind="attention_inputs",
                positions="all",
                arrays=(StateArray(name="block.1.query", width=WIDTH, store="float16"),),
            ),
        ),
        "compression": "none",
        "seed": 0,
        "rows_per_shard": 10,
        "batch_size": 10,
        "engine": {"torch": "0"},
    }
    return CacheIdentity(**(values | changes))


@torch.no_grad()
def _said(teacher: LlamaForCausalLM, row: EncodedRow) -> CachedRow:
    """What the teacher says of one row, position by position, with a loop."""
    output = teacher(torch.from_numpy(row.input_ids).long()[None], output_hidden_states=True)
    places = [place - 1 for place in range(1, len(row)) if row.answer_mask[place]]
    logp = output.logits[0].double().log_softmax(-1)
    kept = [logp[place].sort(descending=True, stable=True) for place in places]
    generator = np.random.default_rng(len(row))
    drawn = [np.sort(generator.integers(0, VOCABULARY, size=DRAWS)) for _ in places]
    distinct = [np.unique(ids, return_counts=True) for ids in drawn]
    states = [output.hidden_states[layer][0] for layer in (1, 2)]
    return CachedRow(
        key=row.key,
        input_ids=row.input_ids,
        answer_mask=row.answer_mask,
        sections={
            "top_k": TopK(
                ids=np.stack([values.indices[:K].numpy() for values in kept]).astype(np.int32),
                logp=np.stack([values.values[:K].numpy() for values in kept]).astype(np.float32),
                tail_logmass=np.array([values.values[K:].logsumexp(0).item() for values in kept], dtype=np.float32),
                actual_logp=np.array(
                    [logp[place, row.input_ids[place + 1]].item() for place in places], dtype=np.float32
                ),
            ),
            "sampled": Sampled(
                distinct=np.array([len(ids) for ids, _ in distinct], dtype=np.int32),
                ids=np.concatenate([ids for ids, _ in distinct]).astype(np.int32),
                counts=np.concatenate([counts for _, counts in distinct]).astype(np.int32),
                entropy_estimate=np.array(places, dtype=np.float32),
            ),
            "hidden_states": States(
                {
                    "layer.1": states[0][places].numpy(),
                    "layer.2": states[1][places].bfloat16().view(torch.uint16).numpy(),
                }
            ),
            "attention_inputs": States({"block.1.query": states[0].half().numpy()}),
        },
    )


def write_cache(folder: Path, identity: CacheIdentity, *, shards: int | None = None) -> Path:
    teacher = sharp_teacher()
    writer = CacheWriter(folder, identity)
    for number in writer.todo()[:shards]:
        start = number * identity.rows_per_shard
        writer.write(number, [_said(teacher, row) for row in SPLIT.rows[start : start + identity.rows_per_shard]])
    return folder
