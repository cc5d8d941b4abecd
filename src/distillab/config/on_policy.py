"""Settings of answers that the student writes itself during training, and what they can be combined with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from distillab.config.base import FolderText, Settings
from distillab.config.served import ServerConfig
from distillab.config.teacher import TeacherConfig
from distillab.config.term_base import BaseTermConfig
from distillab.config.terms import DualSpaceConfig, MergedSpansConfig, SpanLikelihoodConfig, TopKDivergenceConfig
from distillab.config.training import TrainingConfig

StoredAnswers = Literal["dataset", "teacher"]
STUDENT = "answers: {from: student}"


class HorizonConfig(Settings):
    """A number of new tokens that grows linearly from `start` to `end`."""

    start: int = Field(ge=1, description="at the first step")
    end: int = Field(ge=1, description="after the share `over` of the steps, and from then on")
    over: float = Field(default=0.5, gt=0, le=1, description="share of the run's optimizer steps")

    @model_validator(mode="after")
    def _grows(self) -> HorizonConfig:
        if self.end <= self.start:
            raise ValueError(f"end {self.end} is not above start {self.start}; for a constant write one number")
        return self


def _is_horizon(value: Any) -> str:
    return "horizon" if isinstance(value, dict | HorizonConfig) else "number"


_NewTokens = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[HorizonConfig, Tag("horizon")], Discriminator(_is_horizon)
]


class StudentSamplingConfig(Settings):
    """How the student's next token is drawn: from its whole distribution, at a temperature."""

    temperature: float = Field(
        default=1.0, ge=0, description="of sampling alone, a term has its own; 0: the most likely token"
    )


class ServedSamplerConfig(Settings):
    """A vLLM server that writes the answers, with the student's weights from a folder that both can read."""

    server: ServerConfig = Field(
        description="of vLLM, started with VLLM_SERVER_DEV_MODE=1 on a model with the student's configuration"
    )
    folder: FolderText = Field(description="the weights are written there, in student/, before each rollout")

    @field_validator("server")
    @classmethod
    def _writes_alone(cls, server: ServerConfig) -> ServerConfig:
        if server.dialect not in ("auto", "vllm"):
            raise ValueError(
                f"a sampler behind {server.dialect} is not supported: of vLLM alone it is known that it takes new "
                "weights while it runs. Use vLLM, or sampler: local"
            )
        if unread := sorted(server.model_fields_set & {"k", "fields", "prices", "max_cost"}):
            raise ValueError(f"{', '.join(unread)}: no effect on a sampler")
        return server


_Sampler = Annotated[
    Annotated[Literal["local", "continuous_batching"], Tag("named")] | Annotated[ServedSamplerConfig, Tag("served")],
    Discriminator(lambda value: "named" if isinstance(value, str) else "served"),
]


class StudentAnswersConfig(Settings):
    """Answers that the student writes at every step, to the prompts of the training rows."""

    model_config = ConfigDict(serialize_by_alias=True)
    from_: Literal["student"] = Field(default="student", alias="from", description="the student")
    fraction: float = Field(
        default=0.75, gt=0, le=1, description="share of the rows of every step; the others keep the answer `otherwise`"
    )
    otherwise: StoredAnswers = Field(default="dataset", description="whose answers the other rows have")
    max_new_tokens: _NewTokens = Field(
        default=128, description="most tokens of an answer: a number, or {start, end, over}, which grows"
    )
    sampling: StudentSamplingConfig = Field(default=StudentSamplingConfig(), description="how it samples its answers")
    sampler: _Sampler = Field(
        default="local",
        description="who writes: the loop of this process, transformers' continuous_batching, or {server: {url: …}, "
        "folder: …}",
    )
    reuse: int = Field(
        default=1,
        ge=1,
        description="optimizer steps that have the same rows and answers; above 1 a later step weighs each token's "
        "divergence by how much more likely it is now than when it was written, at most twofold",
    )
    repetition_guard: bool = Field(
        default=True,
        description="write at most a quarter of the rows while more than a fifth of the answers of the last 16 steps "
        "repeat themselves",
    )

    weight_by: Literal["token", "sequence"] = Field(
        default="token", description="what has the same weight in the loss of a step: each token, or each answer"
    )
    truncated: Literal["train", "drop"] = Field(
        default="train",
        description="drop: an answer that is cut at max_new_tokens is not in the loss, which favours short ones",
    )

    @model_validator(mode="after")
    def _draws_as_it_is(self) -> StudentAnswersConfig:
        if self.sampler == "continuous_batching" and self.sampling.temperature not in (0, 1):
            raise ValueError(
                "continuous_batching gives log-probabilities at the temperature of sampling alone: use temperature 1 "
                "or 0, or sampler: local"
            )
        return self

    @model_validator(mode="after")
    def _otherwise_is_read(self) -> StudentAnswersConfig:
        if self.fraction == 1 and self.otherwise == "teacher":
            raise ValueError("otherwise: teacher has no effect with fraction: 1, where the student writes every answer")
        return self

    @property
    def shares(self) -> bool:
        """Whether the tokens of a step have different weights in its loss."""
        return self.weight_by == "sequence" or self.truncated == "drop"

    @property
    def longest(self) -> int:
        """The most tokens of an answer at any step."""
        return self.max_new_tokens if isinstance(self.max_new_tokens, int) else self.max_new_tokens.end

    def horizon(self, step: float, steps: int) -> int:
        """Return the most new tokens of an answer at a step, from 1, of so many."""
        if isinstance(self.max_new_tokens, int):
            return self.max_new_tokens
        grows = self.max_new_tokens
        done = min(1.0, (step - 1) / (grows.over * steps))
        return grows.start + int((grows.end - grows.start) * done)

    def rows_of(self, batch_size: int) -> int:
        """Return how many rows of a step the student answers."""
        return round(self.fraction * batch_size)

    def replaced(self, given: StudentAnswersConfig) -> StudentAnswersConfig:
        """Return these settings with those that `given` sets."""
        return StudentAnswersConfig.model_validate(self.model_dump() | given.model_dump(exclude_unset=True))


def _kind_of(value: Any) -> str:
    return "stored" if isinstance(value, str) else "student"


AnswersSetting = Annotated[
    Annotated[StoredAnswers, Tag("stored")] | Annotated[StudentAnswersConfig, Tag("student")],
    Discriminator(_kind_of),
]
"""Whose answers the student learns: by name where they are stored, with settings where it writes them itself."""


def require_teaching(terms: Sequence[BaseTermConfig], own: StudentAnswersConfig) -> None:
    """Check that every term has a signal on text that the student wrote, and what `own` needs of the terms.

    Raises:
        ValueError: one has none, or a wrong one.
    """
    for term in terms:
        kind = getattr(term, "kind", "")
        spans = term.access == "internals" or isinstance(term, MergedSpansConfig | SpanLikelihoodConfig)
        if spans and (own.reuse > 1 or own.shares):
            raise ValueError(
                f"{kind} has no value at each token, and with answers.reuse above 1, weight_by: sequence or truncated: "
                "drop each is weighed: leave these settings out, or use terms such as token_divergence"
            )
        if kind == "cross_entropy":
            raise ValueError(
                f"cross_entropy has no signal with {STUDENT}: it would train the student towards what it does "
                "already. Leave it out, and use terms that read the teacher, such as token_divergence"
            )
        if getattr(term, "rest", "none") == "text":
            raise ValueError(
                f"{kind} with rest: text is in part cross-entropy, which has no signal with {STUDENT}: set rest: none"
            )
        if isinstance(term, DualSpaceConfig):
            raise ValueError(
                f"dual_space trains its projectors to predict the text, and with {STUDENT} that is the student's own: "
                "use another term for two tokenizers, or answers: teacher"
            )
        if isinstance(term, TopKDivergenceConfig) and (term.divergence, term.tail) != ("forward_kl", "cell"):
            raise ValueError(
                f"top_k_divergence with divergence: {term.divergence} and tail: {term.tail} can be lowered with "
                f"{STUDENT} by writing what the teacher's top k does not hold: use forward_kl and cell"
            )
    if own.sampler != "local" and all(term.access == "internals" for term in terms):
        raise ValueError("no term reads the student's logits, by which a sampler is checked: set sampler: local")
    if all(term.access == "none" for term in terms):
        raise ValueError(f"no term reads the teacher, so {STUDENT} has no one to learn from: add token_divergence")


def require_writable(
    answers: StudentAnswersConfig, training: TrainingConfig, teachers: Sequence[TeacherConfig], *, whose: str
) -> None:
    """Check that the student can write answers with these settings; `whose` is the prefix of the message.

    Raises:
        ValueError: it cannot.
    """
    if training.packing:
        raise ValueError(
            f"{whose}packing is planned before the lengths of the student's answers are known: set packing: false"
        )
    if training.group_by_length:
        raise ValueError(
            f"{whose}group_by_length reads the lengths of stored answers; the student's are sorted by length within "
            "each step anyway: set group_by_length: false"
        )
    if answers.reuse > training.steps:
        raise ValueError(f"{whose}answers.reuse {answers.reuse} is more than training.steps {training.steps}")
    if answers.rows_of(training.batch_size) == 0:
        raise ValueError(
            f"{whose}fraction {answers.fraction:g} of batch_size {training.batch_size} is no row: raise one of the two"
        )
    for teacher in teachers:
        if teacher.path is None and teacher.server is None:
            raise ValueError(
                f"{whose}no cache holds the teacher's signals on answers that the student is yet to write: add "
                "teacher.path"
            )
