"""Settings that cannot be meant: a warm-up as long as the run, an unusual learning rate, packing, misspelt keys."""

from __future__ import annotations

from transformers import PreTrainedConfig

from distillab.doctor.batch.rows import GivenBatches
from distillab.doctor.checks import Checked, Scope, check
from distillab.doctor.page import from_page
from distillab.doctor.trainer.settings import Schedule, TrainerSettings
from distillab.models.loading import context_length
from distillab.records import Finding

# of AdamW; beyond a factor of ten below and above what the trainers' own examples have
_WEIGHTS, _ADAPTER = (1e-7, 1e-3), (1e-6, 1e-2)
_FEWEST_STEPS = 2


@check("settings")
def check_settings(
    settings: TrainerSettings,
    rows: GivenBatches | None,
    *,
    total_rows: int | None,
    model: PreTrainedConfig | None,
) -> Checked:
    """Judge the settings of a config, and its prepared rows by them.

    Args:
        rows: that the trainer prepared; None: none are there.
        total_rows: of all of them.
        model: the configuration of the model; None: it is not on this machine.
    """
    steps = planned_steps(settings.schedule, total_rows)
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


def planned_steps(schedule: Schedule, total_rows: int | None) -> int | None:
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
        return from_page("learning-rate-zero", f"learning_rate: {schedule.rate:g}", case="planned", severity="error")
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
    return from_page("schedule-only-warms-up", given + known, case="planned", severity="warning")


def _packed(settings: TrainerSettings) -> Finding | None:
    if settings.packs_apart is not False:
        return None
    need = {
        "axolotl": "sample_packing: true, and no flash_attention, sdp_attention, flex_attention or xformers_attention",
        "LLaMA-Factory": "packing: true, and neat_packing: false",
    }
    return from_page("packed-without-boundaries", need[settings.tool], case="planned", severity="warning")


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
        severity="warning",
    )


def _narrower(settings: TrainerSettings, model: PreTrainedConfig) -> Finding | None:
    stored = str(model.dtype).removeprefix("torch.")
    if settings.half != "float16" or stored != "bfloat16":
        return None
    return from_page(
        "gradient-not-finite",
        f"fp16: true; the weights of {settings.weights} are in bfloat16",
        case="planned",
        severity="warning",
    )
