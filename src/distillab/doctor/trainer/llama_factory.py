"""Reads the YAML of LLaMA-Factory and its dataset_info.json, by the keys of version 0.9 (`llamafactory/hparams/`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from distillab.config.data import ColumnsConfig
from distillab.doctor.trainer.settings import (
    Number,
    RowSource,
    Schedule,
    TrainerConfig,
    TrainerSettings,
    local,
    misspelt,
    validated,
)
from distillab.files import read_json

# beside those that are read here; near enough to one of them to be taken for it
_ALSO = (
    "eval_dataset lr_scheduler_type media_dir per_device_eval_batch_size adapter_folder logging_steps eval_steps "
    "save_steps max_new_tokens mask_history"
)
_TAGS = {"role_tag": "from", "content_tag": "value"}


class LlamaFactoryConfig(TrainerConfig):
    """The keys that are read."""

    model_name_or_path: str
    stage: str = "sft"
    template: str | None = None
    add_tokens: str | None = None
    add_special_tokens: str | None = None
    resize_vocab: bool = False
    dataset: str | list[str] | None = None
    dataset_dir: str = "data"
    tokenized_path: str | None = None
    cutoff_len: int = Field(default=2048, ge=1)
    train_on_prompt: bool = False
    packing: bool | None = None
    neat_packing: bool = False
    finetuning_type: str = "lora"
    learning_rate: Number = 5e-5
    warmup_steps: Number = 0
    warmup_ratio: Number = 0.0
    max_steps: int = -1
    num_train_epochs: Number = 3.0
    per_device_train_batch_size: int = Field(default=8, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)


class _Listed(TrainerConfig):
    """An entry of dataset_info.json."""

    file_name: str | None = None
    formatting: str = "alpaca"
    ranking: bool = False
    columns: dict[str, str | None] = Field(default_factory=dict)
    tags: dict[str, str | None] = Field(default_factory=dict)


def read_llama_factory(values: dict[str, Any], path: Path) -> TrainerSettings:
    """Return the settings of a config.

    Raises:
        DataError: a key that is read has no usable value, or dataset_info.json is damaged.
    """
    config = validated(LlamaFactoryConfig, values, where=str(path))
    packs = config.packing or config.neat_packing or (config.packing is None and config.stage == "pt")
    added = [text.strip() for key in (config.add_tokens, config.add_special_tokens) if key for text in key.split(",")]
    # below 1 it is a share of the steps, as in transformers from version 5 on
    share = config.warmup_steps if config.warmup_steps < 1 else 0.0
    return TrainerSettings(
        tool="LLaMA-Factory",
        model=config.model_name_or_path,
        weights=config.model_name_or_path,
        half=config.half,
        stretched=config.rope_scaling is not None,
        added_tokens=tuple(filter(None, added)),
        pad_token=None,
        own_template=False,
        resizes=config.resize_vocab,
        learns="text" if config.train_on_prompt or config.stage == "pt" else "answers",
        max_tokens=config.cutoff_len,
        prepared=_prepared(config, path.parent),
        sources=_sources(config, path),
        schedule=Schedule(
            rate=config.learning_rate,
            warmup_steps=int(config.warmup_steps) or None,
            warmup_share=share or config.warmup_ratio or None,
            steps=config.max_steps if config.max_steps > 0 else None,
            epochs=config.num_train_epochs,
            rows_a_step=None if packs else config.per_device_train_batch_size * config.gradient_accumulation_steps,
        ),
        adapter=config.finetuning_type == "lora",
        # pretraining packs on purpose
        packs_apart=None if not packs or config.stage == "pt" else config.neat_packing,
        misspelt=misspelt(values, known=LlamaFactoryConfig.model_fields.keys() | set(_ALSO.split())),
    )


def _prepared(config: LlamaFactoryConfig, beside: Path) -> tuple[Path, ...]:
    folder = local(config.tokenized_path, beside=beside) if config.tokenized_path else None
    if folder is None:
        return ()
    return (folder / "train",) if (folder / "train" / "state.json").is_file() else (folder,)


def _sources(config: LlamaFactoryConfig, path: Path) -> tuple[RowSource, ...]:
    given = config.dataset.split(",") if isinstance(config.dataset, str) else config.dataset or []
    names = [name.strip() for name in given]
    folder = local(config.dataset_dir, beside=path.parent)
    if folder is None or not (folder / "dataset_info.json").is_file():
        return tuple(RowSource(name, why_not="there is no dataset_info.json on this machine") for name in names)
    where = folder / "dataset_info.json"
    listed = read_json(where)
    return tuple(_source(name, listed, folder, str(where)) for name in names)


def _source(name: str, listed: Any, folder: Path, where: str) -> RowSource:
    entry = listed.get(name) if isinstance(listed, dict) else None
    if not isinstance(entry, dict):
        return RowSource(name, why_not=f"it is not listed in {where}")
    one = validated(_Listed, entry, where=f"{where}, {name}")
    place = folder / one.file_name if one.file_name else None
    if place is None or not place.exists():
        return RowSource(name, why_not="it is not on this machine")
    if one.ranking:
        return RowSource(name, why_not="rows with a better and a worse answer are not read")
    if one.formatting == "sharegpt":
        if any((one.tags.get(tag) or usual) not in (usual, tag.removesuffix("_tag")) for tag, usual in _TAGS.items()):
            return RowSource(name, why_not="its turns have other keys than from/value or role/content")
        return RowSource(name, place, ColumnsConfig(messages=one.columns.get("messages") or "conversations"))
    named = {key: one.columns.get(key) or usual for key, usual in _ALPACA.items()}
    return RowSource(
        name, place, ColumnsConfig(prompt=named["prompt"], answer=named["response"], context=named["query"])
    )


_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
