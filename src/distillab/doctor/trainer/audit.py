"""`audit_trainer`: what another trainer's config, its prepared data set and its rows show before the run."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from distillab.config.loader import read_values
from distillab.doctor.batch.audit import Told, run_batch_checks
from distillab.doctor.batch.files import load_dataset
from distillab.doctor.batch.rows import GivenBatches
from distillab.doctor.causes import with_causes
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.doctor.data.audit import run_data_checks
from distillab.doctor.data.subject import DataSubject, read_examples, reader_for
from distillab.doctor.trainer.configs import read_axolotl, read_llama_factory
from distillab.doctor.trainer.settings import RowSource, Schedule, TrainerSettings
from distillab.errors import ConfigError, DistillabError
from distillab.models.loading import context_length, load_config
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer, logits_width
from distillab.records import CheckResult, Finding, Investigation

_READS = {"base_model": read_axolotl, "model_name_or_path": read_llama_factory}
# of AdamW; beyond a factor of ten below and above what the trainers' own examples have
_WEIGHTS, _ADAPTER = (1e-7, 1e-3), (1e-6, 1e-2)
_FEWEST_STEPS = 2


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
    checks = [*with_causes((check_settings(settings, rows, model=_model(settings)),))]
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
    found = run_batch_checks(rows, loaded.tokenizer, Told(learns=settings.learns, vocabulary=width))
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


@check("settings")
def check_settings(settings: TrainerSettings, rows: GivenBatches | None, *, model: PreTrainedConfig | None) -> Checked:
    """Judge the settings of a config, and its prepared rows by them.

    Args:
        rows: that the trainer prepared; None: none are there.
        model: the configuration of the model; None: it is not on this machine.
    """
    steps = _planned_steps(settings.schedule, None if rows is None else rows.total or len(rows.rows))
    one = settings.schedule
    rate = "the trainer's default" if one.rate is None else f"{one.rate:g}"
    yield Scope(f"{settings.tool}: learning rate {rate}, {'steps not known' if steps is None else f'{steps:,} steps'}")
    yield _misspelt(settings)
    yield _rate(one, adapter=settings.adapter)
    yield _warm_up(one, steps)
    yield _packed(settings)
    yield _longer(settings, rows)
    if model is not None:
        yield _beyond_positions(settings, model)
        yield _narrower(settings, model)


def _planned_steps(schedule: Schedule, total_rows: int | None) -> int | None:
    """Return the optimizer steps of the run on one device; None: not known."""
    if schedule.steps is not None:
        return schedule.steps
    if total_rows is None or not schedule.rows_a_step:
        return None
    return max(1, int(total_rows * schedule.epochs / schedule.rows_a_step))


def _misspelt(settings: TrainerSettings) -> Finding | None:
    if not settings.misspelt:
        return None
    return from_page(
        "setting-misspelt",
        *tuple(f'"{key}"; did you mean "{meant}"?' for key, meant in settings.misspelt),
        words={"tool": settings.tool},
    )


def _rate(schedule: Schedule, *, adapter: bool) -> Finding | None:
    if schedule.rate is None:
        return None
    if schedule.rate <= 0:
        return from_page("learning-rate-zero", f"learning_rate: {schedule.rate:g}", case="planned")
    low, high = _ADAPTER if adapter else _WEIGHTS
    if low <= schedule.rate <= high:
        return None
    trained = "an adapter" if adapter else "all weights"
    return from_page(
        "learning-rate-unusual",
        f"learning_rate: {schedule.rate:g}; usual for {trained}: {low:g} to {high:g}",
        case="high" if schedule.rate > high else "low",
    )


def _warm_up(schedule: Schedule, steps: int | None) -> Finding | None:
    share = schedule.warmup_share or 0.0
    if schedule.warmup_steps is not None and steps is not None and steps >= _FEWEST_STEPS:
        share = schedule.warmup_steps / steps
    if share < 1:
        return None
    given = f"warmup_steps: {schedule.warmup_steps:,}" if schedule.warmup_steps else f"warmup_ratio: {share:g}"
    known = "" if steps is None else f"; the run has {steps:,} steps on one device"
    return from_page("schedule-only-warms-up", given + known, case="planned")


def _packed(settings: TrainerSettings) -> Finding | None:
    if settings.packs_apart is not False:
        return None
    need = "packing: true, and neat_packing: false"
    if settings.tool == "axolotl":
        need = "sample_packing: true, and no flash_attention, sdp_attention, flex_attention or xformers_attention"
    return from_page("packed-without-boundaries", need, case="planned")


def _longer(settings: TrainerSettings, rows: GivenBatches | None) -> Finding | None:
    # LLaMA-Factory fills packed rows to one more than the length
    most = settings.max_tokens + (1 if settings.tool == "LLaMA-Factory" else 0)
    longest = max(rows.rows, key=lambda row: len(row.ids)) if rows is not None else None
    if longest is None or len(longest.ids) <= most:
        return None
    return from_page(
        "prepared-with-other-settings",
        f"the longest prepared row has {len(longest.ids):,} tokens; the config allows {settings.max_tokens:,}",
        words={"tool": settings.tool},
    )


def _beyond_positions(settings: TrainerSettings, model: PreTrainedConfig) -> Finding | None:
    positions = context_length(model)
    if positions is None or settings.max_tokens <= positions or settings.stretched:
        return None
    return from_page(
        "positions-wrong",
        f"the config allows rows of {settings.max_tokens:,} tokens; {settings.weights} was made with {positions:,} "
        "positions",
        case="planned",
    )


def _narrower(settings: TrainerSettings, model: PreTrainedConfig) -> Finding | None:
    stored = str(model.dtype).removeprefix("torch.")
    if settings.half != "float16" or stored != "bfloat16":
        return None
    return from_page(
        "gradient-not-finite", f"fp16: true; the weights of {settings.weights} are in bfloat16", case="planned"
    )
