"""The training settings of a run: the budget and the optimizer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from distillab.config.base import PathText, Settings


class BudgetConfig(Settings):
    """A budget that is no number of steps: what a student reads in plain fine-tuning."""

    unit: Literal["tokens", "flops"] = Field(
        description="tokens that models read and write, or floating-point operations"
    )
    read_tokens: int = Field(ge=1, description="tokens that the student reads in it")
    scored_tokens: int = Field(ge=1, description="tokens that are scored in it")

    def part(self, share: float) -> BudgetConfig:
        """Return a share of it."""
        read, scored = (max(1, round(share * tokens)) for tokens in (self.read_tokens, self.scored_tokens))
        return BudgetConfig(unit=self.unit, read_tokens=read, scored_tokens=scored)


class TrainingConfig(Settings):
    """The budget and the optimizer (AdamW)."""

    no_effect_on_results: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every", "checkpoint_minutes", "checkpoint_copy", "deepspeed", "report_to"}
    )
    steps: int = Field(default=300, ge=1, description="optimizer steps")
    budget: BudgetConfig | None = Field(
        default=None,
        description="a study sets it (its setting budget): the run ends when it has used as much as plain fine-tuning "
        "on so many tokens, and schedules follow the share that is used; default: it ends after `steps`",
    )
    batch_size: int = Field(default=32, ge=1, description="sequences per optimizer step, over all processes")
    microbatch_size: int | None = Field(
        default=None, ge=1, description="sequences per forward pass and process; default: batch_size / processes"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="of the student at the end of the warm-up")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="of the learning rate after the warm-up"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the learning rate rises from 0")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    adam_beta2: float = Field(default=0.999, gt=0, lt=1, description="of AdamW; its beta1 is 0.9")
    max_grad_norm: float = Field(default=1.0, gt=0, description="the gradient is scaled down to this norm")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="bfloat16: autocast")
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    padding_side: Literal["right", "left"] = Field(
        default="right", description="of the rows of a microbatch; the loss is the same"
    )
    packing: bool = Field(
        default=False,
        description="pack the rows of a microbatch into few sequences of at most data.max_tokens; samples do not "
        "attend to each other, and the loss is the same",
    )
    group_by_length: bool = Field(
        default=False,
        description="group rows of similar length in a step: the same seeded rows in every 32 steps, in another order",
    )
    evaluate_every: int | None = Field(default=None, ge=1, description="steps; default: a tenth of the budget")
    checkpoint_every: int | None = Field(default=None, ge=1, description="steps; default: a quarter of the budget")
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="also make a checkpoint after this many minutes")
    checkpoint_copy: PathText | None = Field(
        default=None,
        description="s3://bucket/folder or another address that fsspec writes to: each checkpoint is copied there, and "
        "a run whose folder is lost resumes from the copy",
    )
    gradient_shares_every: int | None = Field(
        default=None,
        ge=0,
        description="steps between measurements of each term's share of the gradient, which set balanced weights; "
        "measured from the first step if there are several terms; default: a tenth of the steps, at most 50; 0: never",
    )
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto: a GPU if there is one")
    deepspeed: Literal[2, 3] | None = Field(
        default=None,
        description="DeepSpeed ZeRO over the processes: 2 divides the optimizer's state and the gradients, 3 the "
        "weights too; the result is the same, except for rounding",
    )

    report_to: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = Field(
        default=(),
        description="send the figures of every step and every evaluation to these trackers, too, by transformers' "
        "integrations; metrics.jsonl has them all",
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainingConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is larger than steps {self.steps}")
        return self
