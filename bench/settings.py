"""Every number of the benchmarks that is a choice: sizes, steps, rounds, allocator, and what a whole run measures.

Plain data without torch, because the same file is read in the environment of the peers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SEED = 0
LEARNING_RATE = 5e-4
# Standard deviation of the random weights. At transformers' 0.02 all logits are nearly equal, and so are all losses.
WEIGHTS_STD = 0.05
# Rows of a chunk in the floor's head products: the fastest of 32, 64, 128, 256 and 512 at a vocabulary of 32,000.
FLOOR_TILE_ROWS = 256
# The same in the hand-written loop, whose memory should stay small.
HAND_CHUNK_ROWS = 128
# What glibc is told in the setting "raised": keep freed memory, however large, instead of giving it back to the
# kernel, which zeroes every page of it anew at its next use.
RAISED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
# "exact": every large tensor is a mapping of its own, given back when it is freed, so that the resident size is that
# of what is alive. Slow; for questions of memory. Naming a threshold also switches off glibc's own adjustment of it.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "131072"}
ALLOCATORS: dict[str, dict[str, str]] = {"default": {}, "raised": RAISED, "exact": EXACT}


@dataclass(frozen=True)
class Side:
    """One Llama: `width` of the hidden states, number of `blocks`, `heads`, and the width inside of the MLP."""

    width: int
    blocks: int
    heads: int
    inner: int
    key_value_heads: int | None = None


@dataclass(frozen=True)
class Size:
    """A pair of models and what they read in an optimizer step.

    The second half of every row is its answer. `packed`: rows of this many tokens stand in sequences of `length`.
    `tied`: the student's head is its embedding.
    """

    teacher: Side
    student: Side
    vocabulary: int = 32_000
    batch: int = 8
    length: int = 256
    packed: int | None = None
    tied: bool = False

    @property
    def tokens(self) -> int:
        """Tokens read in an optimizer step."""
        return self.batch * self.length

    @property
    def row_length(self) -> int:
        """Tokens of one row."""
        return self.packed or self.length

    @property
    def rows(self) -> int:
        """Rows of an optimizer step."""
        return self.tokens // self.row_length


_SMALL = Size(teacher=Side(256, 8, 4, 688), student=Side(128, 4, 4, 344))

SIZES: dict[str, Size] = {
    "tiny": Size(teacher=Side(32, 2, 2, 48), student=Side(16, 1, 2, 24), vocabulary=96, batch=2, length=16),
    "small": _SMALL,
    "wide": replace(_SMALL, vocabulary=151_936),
    "large": Size(teacher=Side(768, 12, 12, 2048), student=Side(384, 6, 6, 1024)),
    # for the memory of the loss: twice the tokens, twice the vocabulary
    "tokens2": replace(_SMALL, batch=16),
    "vocabulary2": replace(_SMALL, vocabulary=64_000),
    "both2": replace(_SMALL, batch=16, vocabulary=64_000),
    # 8 answers of 48 tokens, by a student of 4.9 million parameters
    "answers": replace(_SMALL, length=96, tied=True),
    # TinyLlama-1.1B learns from Llama-2-7B; for a GPU
    "llama": Size(
        teacher=Side(4096, 32, 32, 11_008),
        student=Side(2048, 22, 32, 5632, key_value_heads=4),
        batch=8,
        length=1024,
        packed=256,
    ),
    "llama_tiny": Size(Side(32, 2, 2, 48), Side(16, 1, 2, 24, key_value_heads=1), 96, batch=2, length=32, packed=8),
}


@dataclass(frozen=True)
class Run:
    """One case, measured in one fresh process."""

    case: str
    size: str = "small"
    threads: int = 1
    allocator: str = "default"
    device: str = "cpu"
    warmup: int = 2
    steps: int = 5
    profile: bool = False

    @property
    def shape(self) -> Size:
        """What the name of the size stands for."""
        return SIZES[self.size]


@dataclass(frozen=True)
class Block:
    """Runs that are compared with each other: every round measures all of them, one after the other."""

    title: str
    runs: tuple[Run, ...]
    rounds: int


# A divergence alone, forward KL's own case aside; the names are those of the recipes.
DIVERGENCES = (
    "reverse_kl",
    "jensen_shannon",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "adaptive_kl",
    "total_variation",
    "alpha_beta",
)

# The student's step where the teacher's word comes from a cache (bench/cache_steps.py).
OFFLINE = ("offline_top_k", "offline_sampled", "offline_full")

# Steps over two tokenisations of the same text, each beside the first of them, which reads one (bench/across_steps.py).
ACROSS_BASE = "same_tokens"
ACROSS = (
    ACROSS_BASE,
    "vocabulary_projection",
    "vocabulary_projection_common",
    "measured_transport",
    "span_likelihood",
    "merged_spans",
    "sorted_probabilities",
    "dual_space",
    "contrastive",
    "span_hidden_states",
)

# The student writes the answers (bench/own_answers.py): a step on them, and its parts alone.
WRITING = ("generate", "own_sampler", "reverse_kl", "on_policy")

# What can be measured: case -> where its function is. Imported only in the process that measures it, because the
# environment of the peers has no distillab, and ours has no TRL.
CASES: dict[str, str] = {
    "floor": "bench.floor:floor",
    "floor_sft": "bench.floor:floor_sft",
    "hand_kl": "bench.hand:hand_kl",
    **dict.fromkeys(
        (
            "sft",
            "forward_kl",
            *DIVERGENCES,
            "logits",
            "logits+hidden_states",
            "logits+attention_relations",
            "white_box",
            "logits+gradient_shares",
        ),
        "bench.distillab_steps:train",
    ),
    **dict.fromkeys(OFFLINE, "bench.cache_steps:train_offline"),
    **dict.fromkeys(ACROSS, "bench.across_steps:train_across"),
    "loss_memory": "bench.loss_memory:loss_memory",
    **{name: f"bench.own_answers:{name}" for name in WRITING if name != "reverse_kl"},
    "trl_gkd": "bench.trl_gkd:trl_gkd",
    "trl_on_policy": "bench.trl_on_policy:trl_on_policy",
    "trl_given_answers": "bench.trl_on_policy:trl_given_answers",
}
# The environment that a case is measured in, where it is not the one that runs the benchmarks.
PEER_CASES = frozenset({"trl_gkd", "trl_on_policy", "trl_given_answers"})
# Before TRL is timed: our case, TRL's, and the size; the losses of their first steps must be equal.
SAME_STEPS = (("forward_kl", "trl_gkd", "small"), ("reverse_kl", "trl_given_answers", "answers"))
# Cases that have no teacher; their floor has none either.
WITHOUT_TEACHER = frozenset({"floor_sft", "sft"})

_CORE = (
    "floor",
    "floor_sft",
    "hand_kl",
    "sft",
    "forward_kl",
    "logits",
    "logits+hidden_states",
    "logits+attention_relations",
    "white_box",
    "logits+gradient_shares",
)
_PAIR = ("floor", "floor_sft", "sft", "forward_kl")

# `make bench`: about 25 minutes on two quiet cores.
SUITE: tuple[Block, ...] = (
    Block("Small pair, 1 thread", tuple(Run(case) for case in _CORE), rounds=2),
    Block(
        "Small pair, 1 thread, malloc's thresholds raised",
        tuple(Run(case, allocator="raised") for case in (*_PAIR, "hand_kl")),
        rounds=1,
    ),
    Block("Small pair, 2 threads", tuple(Run(case, threads=2) for case in _PAIR), rounds=1),
    Block(
        "Small pair, 1 thread, every other divergence alone",
        tuple(Run(case, warmup=1, steps=3) for case in ("floor", *DIVERGENCES)),
        rounds=1,
    ),
    Block(
        "Vocabulary of 151,936, 1 thread",
        tuple(Run(case, size="wide", warmup=1, steps=2) for case in ("floor", "forward_kl")),
        rounds=1,
    ),
    Block(
        "Larger pair, 1 thread",
        tuple(Run(case, size="large", warmup=1, steps=2) for case in ("floor", "hand_kl", "forward_kl")),
        rounds=1,
    ),
    Block(
        "Steps from a teacher cache, small pair, 1 thread",
        tuple(Run(case) for case in ("floor", "sft", *OFFLINE, "forward_kl")),
        rounds=2,
    ),
    Block("Steps across tokenizers, small pair, 1 thread", tuple(Run(case) for case in ACROSS), rounds=2),
    Block(
        "Memory of steps across tokenizers, malloc exact",
        tuple(Run(case, allocator="exact", warmup=1, steps=2) for case in ACROSS),
        rounds=1,
    ),
    Block(
        "Memory of the loss alone",
        tuple(
            Run("loss_memory", size, allocator=allocator, warmup=0, steps=1)
            for allocator in ("exact", "default")
            for size in ("small", "tokens2", "vocabulary2", "both2")
        ),
        rounds=1,
    ),
)

# `make bench-peers`: the same step through another trainer.
PEERS: tuple[Block, ...] = (
    *(
        Block(
            f"Against TRL's GKDTrainer, 1 thread, malloc {allocator}",
            tuple(Run(case, allocator=allocator) for case in ("floor", "hand_kl", "forward_kl", "trl_gkd")),
            rounds=3,
        )
        for allocator in ALLOCATORS
    ),
    *(
        Block(
            f"On-policy, against TRL's DistillationTrainer, 1 thread, malloc {allocator}",
            tuple(Run(case, size="answers", allocator=allocator) for case in (*WRITING, "trl_on_policy")),
            rounds=2,
        )
        for allocator in ("default", "raised")
    ),
)

# `python -m bench gpu`: bfloat16, packed; about five minutes, which was not measured.
_ON_GPU = ("sft", "logits", "white_box", "offline_top_k", "on_policy")
GPU: tuple[Block, ...] = (
    Block(
        "TinyLlama-1.1B from Llama-2-7B, bfloat16",
        tuple(Run(case, size="llama", device="cuda", warmup=3, steps=10, profile=True) for case in _ON_GPU),
        rounds=1,
    ),
)
# `python -m bench gpu --tiny`: that all of it runs, without a GPU.
GPU_TINY: tuple[Block, ...] = (
    Block(
        "Tiny Llamas, float32, CPU",
        tuple(Run(case, size="llama_tiny", warmup=1, steps=1, profile=True) for case in _ON_GPU),
        rounds=1,
    ),
)


@dataclass(frozen=True)
class Target:
    """`case` over `base` shall be at most `limit`; `field`: cpu (seconds a step), memory (of training), or token (cpu a
    token that is written). A base of "a + b" is the sum of two cases.
    """

    case: str
    base: str
    field: str
    limit: float
    allocator: str = "default"
    size: str = "small"


TARGETS = (
    Target("forward_kl", "floor", "cpu", 1.10),
    Target("logits+hidden_states", "logits", "cpu", 1.10),
    Target("logits+attention_relations", "logits", "cpu", 1.25),
    *(Target(case, "sft", "cpu", 1.10) for case in OFFLINE),
    Target("vocabulary_projection", ACROSS_BASE, "cpu", 1.30),
    Target("measured_transport", ACROSS_BASE, "cpu", 1.20),
    Target("span_likelihood", ACROSS_BASE, "cpu", 1.30),
    Target("forward_kl", "trl_gkd", "cpu", 0.40),
    Target("forward_kl", "trl_gkd", "cpu", 0.65, allocator="raised"),
    Target("forward_kl", "trl_gkd", "memory", 0.25),
    Target("own_sampler", "generate", "token", 0.80, size="answers"),
    Target("on_policy", "own_sampler + reverse_kl", "cpu", 1.05, size="answers"),
    Target("on_policy", "trl_on_policy", "token", 0.67, size="answers"),
    Target("on_policy", "trl_on_policy", "token", 0.67, size="answers", allocator="raised"),
    Target("on_policy", "trl_on_policy", "memory", 0.50, size="answers"),
)
