"""`audit_trainer`: what another trainer's config, its prepared data set and its rows show before the run."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from distillab.config.loader import read_values
from distillab.doctor.batch.audit import IGNORED, run_batch_checks
from distillab.doctor.batch.datasets import count_rows, load_dataset
from distillab.doctor.batch.rows import GivenBatches
from distillab.doctor.causes import with_causes
from distillab.doctor.data.audit import run_data_checks
from distillab.doctor.data.encoded import reader_for
from distillab.doctor.data.files import read_examples
from distillab.doctor.data.subject import DataSubject
from distillab.doctor.trainer.axolotl import read_axolotl
from distillab.doctor.trainer.checks import check_settings
from distillab.doctor.trainer.llama_factory import read_llama_factory
from distillab.doctor.trainer.settings import RowSource, TrainerSettings
from distillab.errors import ConfigError, DistillabError
from distillab.models.loading import load_config
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer, logits_width
from distillab.records import CheckResult, Investigation

_READS = {"base_model": read_axolotl, "model_name_or_path": read_llama_factory}


def audit_trainer(config: str | Path, *, tokenizer: str | None = None) -> Investigation:
    """Examine a run of axolotl or LLaMA-Factory before it is made, by its files; neither package is needed.

    Args:
        config: the YAML file.
        tokenizer: folder or hub id; None: the config's model.
    Returns:
        the checks of the settings, of the prepared data set where it is on this machine (as `audit_batch`), and of the
        rows of every data set that is (as `audit_data`).
    Raises:
        ConfigError: the file is no YAML, or is of another trainer.
        DataError: a value has another type, or a prepared data set or file of rows is damaged.
    """
    path = Path(config)
    settings = _settings(path)
    loaded, why_not = _tokenizer(settings, tokenizer)
    folder = settings.prepared[0] if settings.prepared else None
    rows = None if folder is None else load_dataset(folder)
    total = None if folder is None else count_rows(folder)
    checks = [*with_causes((check_settings(settings, rows, total_rows=total, model=_model(settings)),))]
    checks += _prepared(settings, loaded, folder, rows, why_not)
    for source in settings.sources:
        checks += _rows(settings, loaded, source, why_not)
    return Investigation(subject=f"{settings.tool}: {path}", checks=tuple(checks))


def _settings(path: Path) -> TrainerSettings:
    values = read_values(path)
    read = next((reader for key, reader in _READS.items() if key in values), None)
    if read is None:
        raise ConfigError(
            "The config is neither axolotl's nor LLaMA-Factory's.",
            where=str(path),
            facts=[
                "axolotl's has base_model, LLaMA-Factory's model_name_or_path",
                f"keys: {', '.join(map(str, values))[:200]}",
            ],
            fix="a recipe of distillab: distillab doctor preflight RECIPE",
        )
    return read(values, path)


def _model(settings: TrainerSettings) -> PreTrainedConfig | None:
    """Return the configuration of the config's model; None: it is not on this machine."""
    try:
        return load_config(settings.weights, revision=None)
    except DistillabError:
        return None


def _tokenizer(settings: TrainerSettings, given: str | None) -> tuple[LoadedTokenizer | None, str]:
    """Return the tokenizer with the tokens that the trainer adds; or why the config's model has none here."""
    try:
        loaded = load_tokenizer(given or settings.model)
    except DistillabError as error:
        if given is not None:
            raise
        return None, f"the tokenizer of {settings.model} cannot be read here ({error.rule}); --tokenizer FOLDER"
    tokenizer = loaded.tokenizer
    if settings.added_tokens:
        tokenizer.add_tokens(list(settings.added_tokens), special_tokens=True)
    if settings.pad_token is not None:
        tokenizer.pad_token = settings.pad_token
    if settings.own_template:
        tokenizer.chat_template = None
    return loaded, ""


def _prepared(
    settings: TrainerSettings,
    loaded: LoadedTokenizer | None,
    folder: Path | None,
    rows: GivenBatches | None,
    why_not: str,
) -> list[CheckResult]:
    if folder is None or rows is None or loaded is None:
        command = "axolotl preprocess CONFIG" if settings.tool == "axolotl" else "set tokenized_path, and run it once"
        reason = why_not or f"there is no prepared data set on this machine; to make one: {command}"
        return [CheckResult(check="prepared rows", scope="no rows", skipped=reason)]
    others = len(settings.prepared) - 1
    newest = f" (the newest of {others + 1})" if others else ""
    width = None if settings.resizes and settings.added_tokens else logits_width(loaded.path)
    found = run_batch_checks(
        rows,
        loaded.tokenizer,
        shifts=None,
        learns=settings.learns,
        ignore_index=IGNORED,
        pad_id=None,
        vocabulary=width,
        absolute_positions=None,
    )
    return [one.model_copy(update={"scope": f"{folder}{newest}: {one.scope}"}) for one in found.checks]


def _rows(
    settings: TrainerSettings, loaded: LoadedTokenizer | None, source: RowSource, why_not: str
) -> list[CheckResult]:
    if source.path is None or loaded is None:
        reason = source.why_not or why_not
        return [CheckResult(check="rows of the data set", scope=source.name, skipped=reason)]
    examples = read_examples(str(source.path), columns=source.columns)
    found = run_data_checks(DataSubject(examples, (), reader_for(loaded, examples, settings.max_tokens)))
    return [one.model_copy(update={"scope": f"{source.name}: {one.scope}"}) for one in found]
