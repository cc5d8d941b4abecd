"""Settings of the data: sources, columns, template, length."""

from __future__ import annotations

import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from distillab.config.base import PathText, Settings
from distillab.errors import near_names


def _known_template(value: str) -> str:
    names = ("auto", "plain", "chat", "alpaca", "turns")
    if value in names or "{prompt}" in value:
        return value
    raise ValueError(f'no such template: "{value}"; {near_names(value, names)}, or a text with {{prompt}}')


TemplateName = Annotated[str, AfterValidator(_known_template)]


class ColumnsConfig(Settings):
    """Explicit columns, for files whose shape is not recognised. `a.b` is the key `b` of objects in column `a`."""

    prompt: str | None = Field(default=None, description="text, or a list of turns that come before the answer")
    answer: str | None = Field(default=None, description="text, a list of texts (each is an answer), or turns")
    text: str | None = Field(default=None, description="plain text, all of it trained on")
    messages: str | None = Field(default=None, description="a conversation: turns with role/content or from/value")
    context: str | None = Field(default=None, description="with prompt: follows it after an empty line")
    system: str | None = Field(default=None, description="with prompt or messages: the system turn")
    tools: str | None = Field(default=None, description="with prompt or messages: the available tools")

    @model_validator(mode="after")
    def _one_form(self) -> ColumnsConfig:
        pair = (self.prompt is not None, self.answer is not None)
        forms = (all(pair), self.text is not None, self.messages is not None)
        if sum(forms) != 1 or any(pair) != all(pair):
            raise ValueError("name both prompt and answer, or messages alone, or text alone")
        if self.context is not None and not all(pair):
            raise ValueError("context needs prompt and answer")
        if self.text is not None and (self.system is not None or self.tools is not None):
            raise ValueError("plain text has no system turn and no tools")
        return self


class SourceConfig(Settings):
    """Rows of files, of a saved dataset's folder or of a hub id."""

    path: PathText = Field(description="a file, a pattern such as parts/*.jsonl, a folder, a URL or a hub id")
    split: str | None = Field(default=None, description="split of a saved dataset or of a hub id")
    columns: ColumnsConfig | None = Field(
        default=None, description="which columns are read; default: recognised by their names"
    )
    limit: int | None = Field(default=None, ge=1, description="read only this many rows")


class MixedSourceConfig(SourceConfig):
    """One of several sources."""

    weight: float | None = Field(
        default=None,
        gt=0,
        description="share of the rows, relative to the other weights; the mixture is the largest one without a row "
        "used twice. Default, for all sources: every row",
    )
    template: TemplateName | None = Field(default=None, description="for its rows; default: data.template")


class HeldOutConfig(Settings):
    """Source of the held-out rows: a file, a fraction of the training rows, a column, or the first rows."""

    path: PathText | None = Field(default=None, description="a file, a folder, a URL or a hub id, as data.train")
    split: str | None = Field(default=None, description="split of a saved dataset or of a hub id")
    columns: ColumnsConfig | None = Field(default=None, description="as of data.train")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="seeded share of the training rows")
    column: str | None = Field(default=None, description="column of the training file that names the split")
    value: str | None = Field(default=None, description="its value for held-out rows")
    first: int | None = Field(default=None, ge=1, description="the first rows of the training source, so many")
    limit: int | None = Field(default=None, ge=1, description="read only this many held-out rows")

    @model_validator(mode="after")
    def _exactly_one_way(self) -> HeldOutConfig:
        ways = [self.path is not None, self.fraction is not None, self.column is not None, self.first is not None]
        if sum(ways) != 1:
            raise ValueError("give exactly one of path, fraction, column (with value), first")
        if self.first is not None and self.limit is not None:
            raise ValueError("first is a number of rows already: remove limit")
        if (self.column is None) != (self.value is None):
            raise ValueError("column needs value, and value needs column")
        if self.path is None and (self.split is not None or self.columns is not None):
            raise ValueError("split and columns need path")
        return self


class StreamingConfig(Settings):
    """Training rows that are read while the run trains, and kept nowhere."""

    buffer: int = Field(default=10_000, ge=1, description="rows that are shuffled together, in memory")


class DataConfig(Settings):
    """Sources, template and length of the rows."""

    # for a template that writes the date, the date is among the fingerprints; for others it has no effect
    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"date"})
    train: Annotated[
        Annotated[SourceConfig, Tag("source")] | Annotated[tuple[MixedSourceConfig, ...], Tag("sources")],
        Discriminator(lambda value: "sources" if isinstance(value, list | tuple) else "source"),
    ] = Field(description="a source, or a list of sources")
    streaming: StreamingConfig | None = Field(
        default=None,
        description="true, or {buffer: …}: read the training rows from their source as training asks for them",
    )
    held_out: HeldOutConfig = Field(
        default=HeldOutConfig(fraction=0.1),
        description="the rows that no student is trained on; default: a tenth of the training rows",
    )
    teacher_column: str | None = Field(
        default=None, min_length=1, description="column with the name of each row's teacher, one of teachers"
    )
    template: TemplateName = Field(
        default="auto",
        description="auto, plain, chat, alpaca, turns, or your own text with {prompt}",
    )
    supervised_answers: Literal["all", "last"] = Field(
        default="all",
        description="conversations only: train on every answer, or on the last one only; the earlier ones are then "
        "context, as the chat template writes them (some drop their reasoning)",
    )
    prompt_share: float = Field(
        default=0.25, gt=0, lt=1, description="plain text only: the share that is the prompt for generation"
    )
    max_tokens: int = Field(default=512, ge=4, description="longest sequence; longer answers are truncated")
    seed: int = Field(default=0, description="for the held-out fraction and for weights of sources")
    date: datetime.date | None = Field(
        default=None,
        description="the date for chat templates that write today's date; default: the day on which the run, or the "
        "cache that it reads, was first started",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        default="error", description="rows that cannot be read: stop, or skip and count them"
    )

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """The sources of the training rows."""
        return self.train if isinstance(self.train, tuple) else (self.train,)

    @property
    def templates(self) -> dict[str, str]:
        """The templates in use, by `Example.template`."""
        own = [(one.template if isinstance(one, MixedSourceConfig) else None) or "" for one in self.sources]
        return {name: name or self.template for name in (own if self.held_out.path is None else [*own, ""])}

    @property
    def train_name(self) -> str:
        """Names of the sources, for messages."""
        return " + ".join(one.path if one.split is None else f"{one.path}, {one.split}" for one in self.sources)

    @field_validator("train")
    @classmethod
    def _weights_for_all(
        cls, value: SourceConfig | tuple[MixedSourceConfig, ...]
    ) -> SourceConfig | tuple[MixedSourceConfig, ...]:
        if isinstance(value, tuple):
            if not value:
                raise ValueError("name at least one source")
            if len({one.weight is None for one in value}) > 1:
                raise ValueError("give every source a weight, or none of them")
        return value

    @field_validator("streaming", mode="before", json_schema_input_type=StreamingConfig | bool | None)
    @classmethod
    def _on_or_off(cls, value: object) -> object:
        return ({} if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _known_before(self) -> DataConfig:
        several = isinstance(self.train, tuple)
        if self.held_out.first is not None and several:
            raise ValueError("held_out.first counts the rows of one source, and train is a list")
        if self.streaming is not None:
            if several:
                raise ValueError("streaming reads one source; a pattern can name many files")
            if self.held_out.path is None and self.held_out.first is None:
                raise ValueError(
                    "with streaming, give held_out: {path: …} or {first: N}: other rows are not known before"
                )
            if self.teacher_column is not None:
                raise ValueError("streaming is for one teacher: remove teacher_column")
        return self

    @model_validator(mode="after")
    def _template_in_use(self) -> DataConfig:
        if self.template != "auto" and "" not in self.templates:
            raise ValueError("every source has a template, so data.template has no effect: leave it out")
        return self
