"""The pairs on which the cache is judged: a trained teacher, real rows, a student that is to learn from it.

demo   the demo's own teacher and rows (a finished `distillab demo --output FOLDER`): 640 ids, short answers
real   recipes/real-small.yaml: a pretrained 3.3 M teacher on children's stories, 512 ids
wide   a 4.9 M teacher with Mistral's 32,000 ids on the same stories: for bytes and gradients at a real vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import LlamaConfig, PreTrainedModel

from distillab.config.data import DataConfig, HeldOutConfig, SourceConfig
from distillab.config.teacher import TeacherConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.reading import Reader, load_reader
from distillab.data.splits import Splits, load_examples
from distillab.models.loading import random_model
from distillab.teachers.local import LocalTeacher, load_local

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pair:
    """A teacher, a student's shape, rows and a budget.

    Attributes:
        teacher, student: folders; of the student only config.json is read, its weights are drawn from a seed.
        held_out_rows: how many of the held-out rows are judged.
        training: the budget of every student.
        partly: steps after which gradients are compared: on the way, at the full rate. A student at the end of its
            budget has next to no gradient left, and whatever is biased points anywhere then.
        batches: scored tokens over which a gradient is summed, rising; fewer where the rows have fewer.
    """

    name: str
    teacher: str
    student: str
    data: DataConfig
    held_out_rows: int
    training: TrainingConfig
    partly: int
    batches: tuple[int, ...] = (1_000, 4_000, 16_000)

    @cached_property
    def reader(self) -> Reader:
        """How both sides read a row: all pairs share their tokens."""
        return load_reader(
            self.teacher, revision=None, template="auto", kind=self._splits.shape.kind, max_tokens=self.data.max_tokens
        )

    @cached_property
    def collator(self) -> Collator:
        """Rows -> batches."""
        return self.reader.collator()

    @cached_property
    def train(self) -> EncodedSplit:
        """The rows that the students learn from."""
        return self.reader.encoder.encode_all(self._splits.train, source=f"{self.name} train")

    @cached_property
    def held_out(self) -> Sequence[EncodedRow]:
        """The rows that they are judged on; long ones up to max_tokens."""
        split = self.reader.encoder.encode_all(self._splits.held_out, source=f"{self.name} held-out")
        return split.rows[: self.held_out_rows]

    @cached_property
    def _splits(self) -> Splits:
        return load_examples(self.data)

    @property
    def width(self) -> int:
        """Ids that both sides have."""
        return len(self.reader.tokenizer)

    def load_teacher(self) -> LocalTeacher:
        """The teacher, live, in float32."""
        settings = TeacherConfig(path=self.teacher, dtype="float32")
        return load_local(settings, student_device=CPU, template_sha256=self.reader.encoder.template.sha256)

    def fresh_student(self, seed: int) -> PreTrainedModel:
        """A student with weights drawn from `seed`."""
        return random_model(self.student, seed=seed, dtype="float32", device=CPU, revision=None)


def demo(folder: Path, *, steps: int = 600) -> Pair:
    """The demo's pair, from what `distillab demo --output FOLDER` left there."""
    return Pair(
        name="demo",
        teacher=str(folder / "teacher" / "student"),
        student=str(folder / "shapes" / "student"),
        data=DataConfig(
            train=SourceConfig(path=str(folder / "world" / "train.jsonl")),
            held_out=HeldOutConfig(path=str(folder / "world" / "held_out.jsonl")),
            max_tokens=128,
        ),
        held_out_rows=420,
        training=TrainingConfig(steps=steps, batch_size=16, learning_rate=4.5e-3, device="cpu"),
        partly=max(1, steps // 3),
    )


def real(materials: Path, *, steps: int = 300) -> Pair:
    """The pair of recipes/real-small.yaml with a smaller budget: shorter stories, fewer steps."""
    return Pair(
        name="real",
        teacher=str(materials / "models" / "bitllama-3M-tok512"),
        student=str(materials / "models" / "stories260K-tok512"),
        data=_stories(materials, max_tokens=256, limit=700),
        held_out_rows=60,
        training=TrainingConfig(
            steps=steps, batch_size=4, learning_rate=4e-3, warmup_steps=min(30, steps // 4), device="cpu"
        ),
        partly=max(1, steps // 2),
    )


def wide(materials: Path, scratch: Path, *, steps: int = 180) -> Pair:
    """A vocabulary of 32,000: the size of real ones, with the smallest teacher that has learned it."""
    shape = scratch / "wide-student"
    LlamaConfig(
        vocab_size=32_000,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ).save_pretrained(shape)
    return Pair(
        name="wide",
        teacher=str(materials / "models" / "smallmistral-stories"),
        student=str(shape),
        data=_stories(materials, max_tokens=256, limit=150),
        held_out_rows=10,
        training=TrainingConfig(steps=steps, batch_size=8, learning_rate=4e-3, warmup_steps=10, device="cpu"),
        partly=max(1, steps // 3),
    )


def _stories(materials: Path, *, max_tokens: int, limit: int | None = None) -> DataConfig:
    path = materials / "text" / "tinystories" / "stories_dev.jsonl"
    return DataConfig(
        train=SourceConfig(path=str(path), limit=limit),
        held_out=HeldOutConfig(fraction=0.1),
        max_tokens=max_tokens,
    )
