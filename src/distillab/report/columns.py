"""The measured columns of the main table: where each value stands in a record, its unit, its meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from distillab.records import EvaluationRecord, GenerationMetrics

Better = Literal["lower", "higher"] | None


@dataclass(frozen=True)
class Column:
    """One metric. `scale` turns the record's unit into the printed one (100: a share into per cent)."""

    key: str
    heading: str
    unit: str
    better: Better
    read: Callable[[EvaluationRecord], float | None]
    decimals: int = 3
    scale: float = 1.0

    @property
    def arrow(self) -> str:
        """An arrow that says which direction is better."""
        return {"lower": "↓", "higher": "↑", None: ""}[self.better]

    @property
    def better_words(self) -> str:
        """The same in words, for readers who hear the page."""
        return f"{self.better} is better" if self.better else ""


def _generated(read: Callable[[GenerationMetrics], float | None]) -> Callable[[EvaluationRecord], float | None]:
    return lambda record: None if record.generation is None else read(record.generation)


HELD_OUT = Column("nats", "held-out", "nats/token", "lower", lambda e: e.likelihood.nats_per_token)

COLUMNS: tuple[Column, ...] = (
    HELD_OUT,
    Column("bpb", "bits/byte", "bits", "lower", lambda e: e.likelihood.bits_per_byte),
    Column("accuracy", "token accuracy", "%", "higher", lambda e: e.likelihood.token_accuracy, 1, 100),
    Column("kl", "KL from teacher", "nats/token", "lower", lambda e: e.likelihood.kl_from_teacher_nats),
    Column("agreement", "top-1 agreement", "%", "higher", lambda e: e.likelihood.top1_agreement, 1, 100),
    Column("value", "value match", "%", "higher", _generated(lambda g: g.value_match), 1, 100),
    Column("exact", "exact match", "%", "higher", _generated(lambda g: g.exact_match), 1, 100),
    Column("normalised", "norm. match", "%", "higher", _generated(lambda g: g.normalised_match), 1, 100),
    Column("rouge", "ROUGE-L", "× 100", "higher", _generated(lambda g: g.rouge_l), 1, 100),
    Column("eos", "stops by EOS", "%", None, _generated(lambda g: g.stopped_by_eos), 1, 100),
    Column("length", "mean length", "tokens", None, _generated(lambda g: g.mean_tokens), 1),
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "Held-out nats/token",
        "mean of −ln(probability) that a model gives to the next true token of answers it was not trained on. "
        "Lower is better; e to this power is the perplexity. It compares only models with the same tokenizer.",
    ),
    (
        "Bits/byte",
        "the same information divided by the bytes of the text, so that models with different tokenizers can be "
        "compared.",
    ),
    (
        "KL from teacher",
        "KL(teacher ‖ student), the forward direction: expected under the teacher’s distribution, a token, in nats. "
        "Zero means equal distributions. Given only where the two share their tokens.",
    ),
    ("Top-1 agreement", "share of held-out positions at which student and teacher prefer the same token."),
    ("Value match", "share of greedy answers whose decisive part (a number, a name) is right, whatever the wording."),
    (
        "Exact / normalised match",
        "share of greedy answers equal to the reference, as written / with case, space and punctuation evened out.",
    ),
    (
        "ROUGE-L",
        "F-measure of the longest common subsequence of words with the reference, × 100; words of every script.",
    ),
    ("Stops by EOS", "share of greedy answers that the model ended itself rather than being cut at the limit."),
    ("± ", "sample standard deviation over training seeds; it says nothing about other data."),
    (
        "Δ to SFT",
        "held-out nats/token minus those of SFT, paired over seeds and rows, with a 95 % interval. Negative is better. "
        "An interval that holds zero is no difference that this study can tell. Each is of one comparison alone; "
        "“better” and “worse” are claimed of all arms together at 5 % (Holm’s adjusted p-values).",
    ),
    ("Log V", "the loss of a model that gives every token of the vocabulary the same probability."),
    ("Unigram", "the loss of a model that knows only how often each token occurs in the training answers."),
    ("SFT, SeqKD", "supervised fine-tuning on the data set’s answers; the same on answers that a teacher wrote."),
)
