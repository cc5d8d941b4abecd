"""What trainers of TRL trained on, logged and computed, as `trl_runs` has written it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.doctor.case import Audit, Case, Place, SetUp
from bench.doctor.rows import tokenizer_in, tokenizer_of
from distillab.doctor import audit_batch, audit_run
from distillab.doctor.batch.audit import Learns
from distillab.doctor.batch.files import load_batches
from distillab.records import CheckResult

Make = Callable[[Place], Sequence[CheckResult]]


def _batch(name: str, learns: Learns | None = "answers", student: str | None = None) -> Make:
    def make(place: Place) -> Sequence[CheckResult]:
        given = load_batches(place.written(name, "batches.pt"))
        theirs = place.written(name, "tokenizer")
        tokenizer = tokenizer_in(theirs) if student is None else tokenizer_of(place, student, pad="<unk>")
        return audit_batch(given, tokenizer, learns=learns, shifts="model")

    return make


def _run(name: str, *, divergence: bool = False, random: bool = True, accumulation: int | None = None) -> Make:
    def make(place: Place) -> Sequence[CheckResult]:
        return audit_run(
            place.written(name),
            vocabulary=512,
            loss="divergence" if divergence else "cross_entropy",
            random_student=random,
            accumulation=accumulation,
        ).checks

    return make


def _loss(name: str) -> Make:
    return lambda place: (
        CheckResult.model_validate_json(place.written(name, "loss.json").read_text(encoding="utf-8")),
    )


def _case(set_up: SetUp, audit: Audit, name: str, make: Make, *expected: str, beside: Sequence[str] = ()) -> Case:
    return Case(
        f"{set_up}-{name.replace('_', '-')}", set_up, audit, frozenset(expected), make, "trl", frozenset(beside)
    )


# fmt: off
CASES = [
    # ------------------------------------------------ batches with a fault
    _case("trl-sft", "batch", "completion_mask_ignored", _batch("completion_mask_ignored"), "prompt-in-loss"),
    _case("trl-sft", "batch", "one_text_column", _batch("one_text_column"), "prompt-in-loss"),
    _case("trl-sft", "batch", "cut_at_the_length", _batch("cut_at_the_length"), "answers-truncated"),
    _case("trl-sft", "batch", "begin_token_twice", _batch("begin_token_twice", None), "double-bos"),
    _case("trl-sft", "batch", "wrapped_packing", _batch("wrapped_packing", None), "packed-without-boundaries"),
    _case("trl-sft", "batch", "collator_of_transformers", _batch("collator_of_transformers", None), "eos-not-scored"),
    _case("trl-sft", "batch", "markers_nobody_added", _batch("markers_nobody_added"), "markers-in-pieces"),
    _case("trl-sft", "batch", "another_familys_wording", _batch("another_familys_wording", None),
         "template-of-another-family"),
    _case("trl-sft", "batch", "nothing_scored", _batch("nothing_scored", None), "all-masked-rows"),
    _case("trl-sft", "batch", "tokens_of_the_teacher", _batch("tokens_of_the_teacher", None, "tinyllama-1.1b"),
         "ids-of-another-tokenizer"),
    _case("trl-gkd", "batch", "head_of_the_prompt_cut", _batch("gkd_head_of_the_prompt_cut"), "bos-missing"),
    # ------------------------------------------------ good batches
    _case("trl-sft", "batch", "completion", _batch("completion")),
    _case("trl-sft", "batch", "plain_texts", _batch("plain_texts", "text")),
    _case("trl-sft", "batch", "best_fit_packing", _batch("best_fit_packing")),
    _case("trl-sft", "batch", "padding_free", _batch("padding_free")),
    _case("trl-sft", "batch", "assistant_turns", _batch("assistant_turns")),
    _case("trl-gkd", "batch", "chats", _batch("gkd_chats")),
    _case("trl-gold", "batch", "chats", _batch("gold_chats")),
    # ------------------------------------------------ runs with a fault
    _case("trl-sft", "run", "log_of_nothing_scored", _run("nothing_scored"), "gradient-zero", "loss-exactly-zero",
         "nan-shown-as-zero"),
    _case("trl-sft", "run", "nan_run", _run("nan_run"), "nan-shown-as-zero",
         beside=["gradient-not-finite", "loss-not-finite"]),
    _case("trl-sft", "run", "rate_far_too_high", _run("rate_far_too_high"), "loss-diverges", "gradient-explodes",
         "nothing-learned", "loss-flat-near-uniform"),
    _case("trl-sft", "run", "rate_zero", _run("rate_zero"), "learning-rate-zero",
         beside=["evaluation-never-changes", "nothing-learned"]),
    _case("trl-sft", "run", "rate_far_too_low", _run("rate_far_too_low"), "learning-rate-too-low", "nothing-learned"),
    _case("trl-sft", "run", "warmup_longer_than_the_run", _run("warmup_longer_than_the_run"), "schedule-only-warms-up"),
    _case("trl-sft", "run", "few_rows_many_epochs", _run("few_rows_many_epochs"), "overfitting"),
    _case("trl-gkd", "run", "log_of_nothing_scored", _run("gkd_nothing_scored", divergence=True), "nan-shown-as-zero",
         "loss-exactly-zero", "gradient-zero"),
    _case("trl-gold", "run", "temperature_zero", _run("gold_temperature_zero", divergence=True), "nan-shown-as-zero",
         beside=["gradient-not-finite"]),
    _case("trl-gold", "run", "accumulated", _run("gold_accumulated", divergence=True, accumulation=4),
         "accumulation-rescales"),
    # ------------------------------------------------ good runs
    _case("trl-sft", "run", "good_run", _run("good_run")),
    _case("trl-sft", "run", "lora_run", _run("lora_run", random=False)),
    _case("trl-sft", "run", "accumulated_run", _run("accumulated_run", accumulation=4)),
    _case("trl-gkd", "run", "gkd_run", _run("gkd_run", divergence=True)),
    _case("trl-gkd", "run", "gkd_accumulated", _run("gkd_accumulated", divergence=True, accumulation=4)),
    # ------------------------------------------------ losses
    _case("trl-gkd", "loss", "temperature_without_effect", _loss("gkd_loss_temperature"),
         "loss-temperature-without-effect"),
    _case("trl-gold", "loss", "uld_observed", _loss("gold_uld_observed"), "loss-mask-not-shifted"),
    _case("trl-gkd", "loss", "forward", _loss("gkd_loss_forward")),
    _case("trl-gkd", "loss", "jensen_shannon", _loss("gkd_loss_jensen_shannon")),
    _case("trl-gkd", "loss", "reverse", _loss("gkd_loss_reverse")),
    _case("trl-gold", "loss", "jensen_shannon", _loss("gold_loss")),
    _case("trl-gold", "loss", "uld_bayesian", _loss("gold_uld_bayesian")),
]
# fmt: on
