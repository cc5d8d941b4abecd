"""The conventions of eight trainers for batches, and what varies freely among their users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bench.doctor.grammar import Random
from bench.doctor.world_batch import Batches


def draw_batches(draw: Random) -> Batches:
    """A good set-up by the conventions of one of eight trainers, with what varies freely among their users."""
    trainer = draw.choice(tuple(_TRAINERS))
    tokenizer, pad = draw.choice(
        (
            ("tinyllama-1.1b", "<unk>"),
            ("mistral-7b-v0.1", "<unk>"),
            ("tinyllama-1.1b", "</s>"),
            ("gpt2", "<|pad|>"),
            ("gpt2", "<|endoftext|>"),
            ("tok512", "<unk>"),
        )
    )
    base = Batches(
        trainer,
        tokenizer,
        pad,
        seed=draw.randrange(10**6),
        size=draw.choice((4, 6, 8)),
        count=draw.choice((16, 24, 32)),
        start=draw.randrange(0, 200),
        told=draw.random() < 0.7,
        form=draw.choice(("tensors", "tensors", "arrays", "lists", "int32", "another column")),
        vocabulary=draw.choice(("not told", "right")),
    )
    made = _TRAINERS[trainer](base, draw)
    if made.shifts == "batch" or made.learns == "text":
        made = replace(made, told=True)
    if made.tokenizer == "gpt2" and made.side == "left":
        made = replace(made, positions=True)
    return made


def _chat(base: Batches, draw: Random) -> Batches:
    turns = draw.choice((1, 2, 3))
    template = draw.choice(("chatml", "chatml", "inst"))
    return replace(base, template=template, turns=turns, system=template == "chatml" and draw.random() < 0.5)


def _plain(base: Batches, draw: Random) -> Batches:
    template = draw.choice(("words", "alpaca", "inst"))
    return replace(base, template=template, source="tasks" if template == "alpaca" else "sums")


def _ours(base: Batches, draw: Random) -> Batches:
    packing = draw.choice(("none", "none", "positions"))
    side = draw.choice(("right", "left")) if packing == "none" else "right"
    return replace(_plain(base, draw), packing=packing, side=side, positions=draw.random() < 0.5)


def _transformers(base: Batches, draw: Random) -> Batches:
    # the collator masks labels by the padding's id, so that its users give it a token of its own
    pad = "<unk>" if base.tokenizer != "gpt2" else "<|pad|>"
    return replace(base, pad=pad, source="stories", learns="text", multiple=draw.choice((1, 8)))


def _trl_sft(base: Batches, draw: Random) -> Batches:
    made = draw.choice((_plain, _chat))(base, draw)
    return replace(made, packing=draw.choice(("none", "none", "positions")))


def _trl_gkd(base: Batches, draw: Random) -> Batches:
    return replace(_chat(base, draw), turns=1, side="left")


def _axolotl(base: Batches, draw: Random) -> Batches:
    made = draw.choice((_plain, _chat))(base, draw)
    if draw.random() < 0.3:
        made = replace(made, source="stories", template="words", turns=1, system=False, learns="text")
    return replace(made, packing=draw.choice(("none", "block mask")), multiple=64)


def _llama_factory(base: Batches, draw: Random) -> Batches:
    return replace(_chat(base, draw), multiple=8, size=draw.choice((2, 4, 8)))


def _torchtune(base: Batches, draw: Random) -> Batches:
    return replace(draw.choice((_plain, _chat))(base, draw), mask=False)


def _hand_written(base: Batches, draw: Random) -> Batches:
    made = replace(_plain(base, draw), shifts="batch", mask=draw.random() < 0.5)
    if draw.random() < 0.3:
        made = replace(made, source="stories", template="words", learns="text")
    return made


_TRAINERS: dict[str, Callable[[Batches, Random], Batches]] = {
    "ours": _ours,
    "transformers": _transformers,
    "trl-sft": _trl_sft,
    "trl-gkd": _trl_gkd,
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
    "torchtune": _torchtune,
    "hand-written": _hand_written,
}
