"""Reads the YAML of axolotl, by the keys of its main branch of 2025 and 2026 (`axolotl/utils/schemas/`), and of
LLaMA-Factory with its dataset_info.json, by the keys of version 0.9 (`llamafactory/hparams/`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from distillab.config.data import ColumnsConfig
from distillab.doctor.batch.rows import Learns
from distillab.doctor.trainer.settings import (
    Count,
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

_PREPARED = "last_run_prepared"
_ATTENTION = ("flash_attention", "sdp_attention", "flex_attention", "xformers_attention")
_OWN = ("tokenizer_default", "")
# beside those that are read here; near enough to one of them to be taken for it
_ALSO_AXOLOTL = (
    "base_model_config val_set_size eval_sample_packing lr_scheduler lr_scheduler_kwargs test_datasets "
    "pretraining_dataset eval_batch_size tokenizer_type eval_steps save_steps logging_steps train_on_eos "
    "roles_to_train dataset_processes sample_packing_bin_size sample_packing_group_size flash_attn_cross_entropy "
    "s2_attention eager_attention attn_implementation chat_template_jinja"
)
# beside those that are read here; near enough to one of them to be taken for it
_ALSO_LLAMA_FACTORY = (
    "eval_dataset lr_scheduler_type media_dir per_device_eval_batch_size adapter_folder logging_steps eval_steps "
    "save_steps max_new_tokens mask_history"
)
_TAGS = {"role_tag": "from", "content_tag": "value"}

_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}


class _Source(TrainerConfig):
    path: str
    type: str | dict[str, Any] | None = None
    data_files: str | list[str] | None = None
    field: str | None = None
    field_messages: str | None = None
    roles_to_train: list[str] | None = None


class AxolotlConfig(TrainerConfig):
    """The keys that are read."""

    base_model: str
    tokenizer_config: str | None = None
    special_tokens: dict[str, str | None] | None = None
    tokens: list[str] | None = None
    chat_template: str | None = None
    datasets: list[_Source] = Field(default_factory=list)
    dataset_prepared_path: str | None = None
    train_on_inputs: bool | None = None
    sequence_len: int = Field(default=512, ge=1)
    sample_packing: bool | None = None
    flash_attention: bool | None = None
    sdp_attention: bool | None = None
    flex_attention: bool | None = None
    xformers_attention: bool | None = None
    adapter: str | None = None
    learning_rate: Number | None = None
    warmup_steps: Count | None = None
    warmup_ratio: Number | None = None
    max_steps: Count | None = None
    num_epochs: Number = 1.0
    micro_batch_size: Count | None = None
    gradient_accumulation_steps: Count | None = None
    batch_size: Count | None = None


def read_axolotl(values: dict[str, Any], path: Path) -> TrainerSettings:
    """Return the settings of a config.

    Raises:
        DataError: a key that is read has no usable value.
    """
    config = validated(AxolotlConfig, values, where=str(path))
    special = config.special_tokens or {}
    added = (*(text for text in special.values() if text), *(config.tokens or ()))
    micro = (config.micro_batch_size or 1) * (config.gradient_accumulation_steps or 1)
    apart = None if not config.sample_packing else any(getattr(config, name) for name in _ATTENTION)
    if apart is False and "attn_implementation" in values:
        apart = str(values["attn_implementation"]) != "eager"
    return TrainerSettings(
        tool="axolotl",
        model=config.tokenizer_config or config.base_model,
        weights=config.base_model,
        half=config.half,
        stretched=config.rope_scaling is not None or "overrides_of_model_config" in values,
        added_tokens=added,
        pad_token=special.get("pad_token"),
        own_template=(config.chat_template or "") not in _OWN,
        resizes=True,
        learns=_learns(config),
        max_tokens=config.sequence_len,
        prepared=_axolotl_prepared(config, path.parent),
        sources=tuple(_axolotl_source(one, path.parent) for one in config.datasets),
        schedule=Schedule(
            rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
            warmup_share=config.warmup_ratio,
            steps=config.max_steps,
            epochs=config.num_epochs,
            # packing puts several rows into one
            rows_a_step=None if config.sample_packing else config.batch_size or micro,
        ),
        adapter=config.adapter is not None,
        packs_apart=apart,
        misspelt=misspelt(values, known=AxolotlConfig.model_fields.keys() | set(_ALSO_AXOLOTL.split())),
    )


def _learns(config: AxolotlConfig) -> Learns | None:
    kinds = {str(one.type).partition(":")[0] for one in config.datasets if not isinstance(one.type, dict)}
    if config.train_on_inputs or kinds == {"completion"}:
        return "text"
    if "completion" in kinds or any(
        set(one.roles_to_train or ("assistant",)) - {"assistant", "gpt"} for one in config.datasets
    ):
        return None
    return "answers"


def _axolotl_prepared(config: AxolotlConfig, beside: Path) -> tuple[Path, ...]:
    folder = local(config.dataset_prepared_path or _PREPARED, beside=beside)
    if folder is None or not folder.is_dir():
        return ()
    if (folder / "state.json").is_file():
        return (folder,)
    made = [entry for entry in folder.iterdir() if (entry / "state.json").is_file()]
    return tuple(sorted(made, key=lambda entry: entry.stat().st_mtime, reverse=True))


def _axolotl_source(one: _Source, beside: Path) -> RowSource:
    files = [one.data_files] if isinstance(one.data_files, str) else one.data_files or []
    if len(files) > 1:
        return RowSource(one.path, why_not="several data_files")
    place = local(files[0] if files else one.path, beside=beside)
    if place is None:
        return RowSource(one.path, why_not="it is not on this machine")
    kind = one.type
    if isinstance(kind, dict):
        names = [kind.get(f"field_{name}") for name in ("instruction", "output", "input", "system")]
        if not all(isinstance(name, str) for name in names[:2]):
            return RowSource(one.path, why_not="its type names no field_instruction and field_output")
        prompt, answer, context, system = (name if isinstance(name, str) else None for name in names)
        return RowSource(one.path, place, ColumnsConfig(prompt=prompt, answer=answer, context=context, system=system))
    base = (kind or "").partition(":")[0].partition(".")[0]
    if base == "completion":
        return RowSource(one.path, place, ColumnsConfig(text=one.field or "text"))
    if base == "chat_template":
        return RowSource(one.path, place, ColumnsConfig(messages=one.field_messages or "messages"))
    if base in ("alpaca", ""):
        return RowSource(one.path, place)
    return RowSource(one.path, why_not=f"rows of the type {base} are not read")


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
        prepared=_tokenized(config, path.parent),
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
        misspelt=misspelt(values, known=LlamaFactoryConfig.model_fields.keys() | set(_ALSO_LLAMA_FACTORY.split())),
    )


def _tokenized(config: LlamaFactoryConfig, beside: Path) -> tuple[Path, ...]:
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
    return tuple(_listed_source(name, listed, folder, str(where)) for name in names)


def _listed_source(name: str, listed: Any, folder: Path, where: str) -> RowSource:
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
