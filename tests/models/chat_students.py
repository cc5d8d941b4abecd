"""Small chat models that are trained in a second: a tokenizer with a chat template, and a Llama that knows its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as token_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distillab.data.collation import IndexedRow
from distillab.data.examples import Example, Kind, pair_example
from distillab.data.reading import Reader, load_reader

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def sums(count: int = 4) -> tuple[Example, ...]:
    """Questions and answers of one sentence."""
    return tuple(
        pair_example(f"k{n}", f"f:{n}", instruction=f"What is {n} plus 4?", context="", answer=f"The sum is {n + 4}.")
        for n in range(count)
    )


def chat_reader(
    folder: Path,
    template: str | None = CHATML,
    *,
    special: Sequence[str] = SPECIAL,
    eos: str = "<|endoftext|>",
    texts: Sequence[str] = (),
    kind: Kind = "pair",
    form: str = "auto",
) -> Reader:
    """A byte-level tokenizer in a folder, whose EOS (of ChatML) is not the token that ends a turn."""
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(text for row in sums() for text in row.texts)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=special[0], chat_template=template
    )
    fast.save_pretrained(folder)
    return load_reader(str(folder), revision=None, template=form, kind=kind, max_tokens=160)


def trained(reader: Reader, rows: Sequence[Example], *, steps: int = 120) -> LlamaForCausalLM:
    """A small Llama after some steps on all rows at once."""
    encoded = reader.encoder.encode_all(rows, source="rows").rows
    batch = reader.collator()([IndexedRow(n, row) for n, row in enumerate(encoded)])
    return fitted(
        len(reader.tokenizer), {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}, steps
    )


def fitted(vocabulary: int, batch: dict[str, torch.Tensor], steps: int) -> LlamaForCausalLM:
    """A small Llama after some steps on one batch."""
    torch.manual_seed(0)
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=256, eos_token_id=0, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
