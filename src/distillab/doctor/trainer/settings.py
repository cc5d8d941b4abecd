"""What a config of axolotl or LLaMA-Factory says, in one form for both."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distillab.config.data import ColumnsConfig
from distillab.doctor.batch.rows import Learns
from distillab.errors import DataError

Tool = Literal["axolotl", "LLaMA-Factory"]
# YAML has .nan and .inf, too
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
_MOST_FACTS = 8

_NEAR = 0.88


@dataclass(frozen=True)
class RowSource:
    """One of the config's data sets.

    Attributes:
        name: as in the config.
        path: of a file or folder here; None: its rows are not read.
        columns: None: recognised by their names.
        why_not: why its rows are not read.
    """

    name: str
    path: Path | None = None
    columns: ColumnsConfig | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Schedule:
    """Learning rate and steps; None: not given.

    Attributes:
        rate: the highest.
        warmup_steps, warmup_share: steps, or share of all steps, until then.
        steps: of the whole run, where the config has them; else `epochs` over the rows, `rows_a_step` at once.
    """

    rate: float | None
    warmup_steps: int | None
    warmup_share: float | None
    steps: int | None
    epochs: float
    rows_a_step: int | None


@dataclass(frozen=True)
class TrainerSettings:
    """The settings of a run that the checks read.

    Attributes:
        tool: whose config it is.
        model: folder or hub id of the model, or of its tokenizer where the config names another.
        weights: folder or hub id of the model.
        half: the format with 16 bits in which it is trained; None: another one, or not stated.
        stretched: the config gives the model more positions than it was made with.
        added_tokens: that the trainer adds to the tokenizer.
        pad_token: that it sets.
        own_template: the config names a template that is not the tokenizer's own.
        resizes: rows of the output layer are added for the new tokens.
        learns: which part of a row is scored; None: not stated.
        max_tokens: at which rows are cut, or dropped.
        prepared: folders that `datasets.save_to_disk` wrote.
        sources: data sets of the config.
        schedule: learning rate and steps.
        adapter: only few weights are trained (LoRA).
        packs_apart: packed samples do not read each other; None: nothing is packed.
        misspelt: (key, the key that is meant), of keys that the trainer passes over.
    """

    tool: Tool
    model: str
    weights: str
    half: Literal["float16", "bfloat16"] | None
    stretched: bool
    added_tokens: tuple[str, ...]
    pad_token: str | None
    own_template: bool
    resizes: bool
    learns: Learns | None
    max_tokens: int
    prepared: tuple[Path, ...]
    sources: tuple[RowSource, ...]
    schedule: Schedule
    adapter: bool
    packs_apart: bool | None
    misspelt: tuple[tuple[str, str], ...]


class TrainerConfig(BaseModel):
    """The keys of a config that are read; all others are kept beside them."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    fp16: bool | None = None
    bf16: bool | Literal["auto", "full"] | None = None
    rope_scaling: Any = None

    @property
    def half(self) -> Literal["float16", "bfloat16"] | None:
        """The format with 16 bits that is stated, and is not left to the machine."""
        return "float16" if self.fp16 else "bfloat16" if self.bf16 in (True, "full") else None


Config = TypeVar("Config", bound=TrainerConfig)


def validated(kind: type[Config], values: dict[str, Any], *, where: str) -> Config:
    """Return the keys of a config with their types.

    Raises:
        DataError: a key is missing, or its value has another type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        facts = [f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r:.80})" for one in error.errors()]
        raise DataError(
            "The config has values that its trainer cannot use.",
            where=where,
            facts=facts[:_MOST_FACTS],
            fix="write these keys as the trainer's documentation has them",
        ) from error


def local(path: str, *, beside: Path) -> Path | None:
    """Return a file or folder that exists, from the working folder or the config's; None: it is elsewhere."""
    for place in (Path(path).expanduser(), beside / path):
        if place.exists():
            return place
    return None


def misspelt(values: Mapping[str, Any], *, known: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return (key, the known key that it is nearly) of keys that are not known.

    A trainer has hundreds of keys, and only some are known here: a key that resembles none of these is not judged.

    >>> misspelt({"learning_rat": 1, "bf16": True, "lr": 1}, known=["learning_rate", "sequence_len"])
    (('learning_rat', 'learning_rate'),)
    """
    names = sorted(known)
    near = ((key, difflib.get_close_matches(key, names, n=1, cutoff=_NEAR)) for key in values if key not in names)
    return tuple((key, found[0]) for key, found in near if found)
