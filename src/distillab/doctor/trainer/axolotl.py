"""Reads the YAML of axolotl, by the keys of its main branch of 2025 and 2026 (`axolotl/utils/schemas/`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from distillab.config.data import ColumnsConfig
from distillab.doctor.batch.scored import Learns
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

_PREPARED = "last_run_prepared"
_ATTENTION = ("flash_attention", "sdp_attention", "flex_attention", "xformers_attention")
_OWN = ("tokenizer_default", "")
# beside those that are read here; near enough to one of them to be taken for it
_ALSO = (
    "base_model_config val_set_size eval_sample_packing lr_scheduler lr_scheduler_kwargs test_datasets "
    "pretraining_dataset eval_batch_size tokenizer_type eval_steps save_steps logging_steps train_on_eos "
    "roles_to_train dataset_processes sample_packing_bin_size sample_packing_group_size flash_attn_cross_entropy "
    "s2_attention eager_attention attn_implementation chat_template_jinja"
)


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
        prepared=_prepared(config, path.parent),
        sources=tuple(_source(one, path.parent) for one in config.datasets),
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
        misspelt=misspelt(values, known=AxolotlConfig.model_fields.keys() | set(_ALSO.split())),
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


def _prepared(config: AxolotlConfig, beside: Path) -> tuple[Path, ...]:
    folder = local(config.dataset_prepared_path or _PREPARED, beside=beside)
    if folder is None or not folder.is_dir():
        return ()
    if (folder / "state.json").is_file():
        return (folder,)
    made = [entry for entry in folder.iterdir() if (entry / "state.json").is_file()]
    return tuple(sorted(made, key=lambda entry: entry.stat().st_mtime, reverse=True))


def _source(one: _Source, beside: Path) -> RowSource:
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
