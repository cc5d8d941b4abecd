"""Watch a live training: its first batches before they train, its log as it grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, Trainer, TrainerCallback

from distillab.doctor.batch.audit import IGNORED, Learns, Shifts, Told, run_batch_checks
from distillab.doctor.batch.rows import read_batches
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.pair.contract import side_by_side_lines
from distillab.doctor.run.audit import run_log_checks, with_facts
from distillab.doctor.run.logs import Run
from distillab.doctor.run.logs_other import of_trainer_state
from distillab.errors import ConfigError, DistillabError, FaultFound
from distillab.hub import was_fetched
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer
from distillab.paths import is_local, local_path
from distillab.records import CheckResult, Investigation
from distillab.terminal import echo

BATCHES = 8
EVERY = 10
# the whole log is examined after a quarter more losses: all examinations together take five times as long as the last
_GROWTH = 1.25
_MEASURED = ("loss", "eval_loss", "grad_norm")
_LIVE = "the live log"
# of the ids: below it another vocabulary, above it tokens that were exchanged for own ones
_MOST = 0.5


class Watch:
    """The examination of one training. `watch` makes one for a Trainer; a loop of your own calls `batch` and `log`.

    Args:
        tokenizer: with which the batches are made.
        stop: raise at the first error, before the batch trains. False: print it, and go on.
        batches: microbatches that are examined together, the first ones. While the first is examined alone, it has not
            trained yet.
        every: logged losses before the first examination of the log, and at least between two. Later ones come after a
            quarter more losses, and at once at the first value that is NaN or infinite.
        vocabulary: ids of the student's tokenizer; the logged losses are then nats per token, see `audit_run`.
        width: rows of the model's output layer, where they are known.
        shifts, learns, ignore_index: see `audit_batch`.
    Raises:
        ConfigError: a number below 1.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        stop: bool = True,
        batches: int = BATCHES,
        every: int = EVERY,
        vocabulary: int | None = None,
        width: int | None = None,
        shifts: Shifts | None = None,
        learns: Learns | None = None,
        ignore_index: int = IGNORED,
    ) -> None:
        if batches < 1 or every < 1:
            raise ConfigError("A watch examines something.", facts=[f"batches: {batches}; every: {every}; at least 1"])
        self._tokenizer = tokenizer
        self._stop, self._most, self._every, self._vocabulary = stop, batches, every, vocabulary
        self._told = Told(shifts, learns, ignore_index, vocabulary=width)
        self._batches: list[dict[str, Any]] = []
        self._history: list[dict[str, Any]] = []
        self._checks: dict[str, Sequence[CheckResult]] = {"model": (), "batches": (), "log": ()}
        self._shown: set[str] = set()
        self._losses, self._next, self._broken = 0, every, False

    @property
    def investigation(self) -> Investigation:
        """What was found until now; `distillab.report.investigation.write_investigation` makes a page of it."""
        return Investigation(subject="a live training", checks=tuple(chain.from_iterable(self._checks.values())))

    def model(self, model: Any) -> None:
        """Compare the tokenizer with the one that the model was loaded with.

        Raises:
            FaultFound: it is another one, and `stop` is set.
        """
        self._tell("model", [check_model_tokenizer(model, self._tokenizer)])

    def batch(self, batch: Mapping[str, Any]) -> None:
        """Examine a microbatch that is about to train: the first at once, the next ones together.

        Raises:
            FaultFound: it has an error, and `stop` is set.
            DataError, ShapeError: see `audit_batch`.
        """
        if len(self._batches) == self._most:
            return
        kept = {name: one.detach().cpu().clone() if isinstance(one, Tensor) else one for name, one in batch.items()}
        self._batches.append(kept)
        if len(self._batches) in (1, self._most):
            self._tell("batches", run_batch_checks(read_batches(self._batches), self._tokenizer, self._told).checks)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line of the training's log: `loss`, `eval_loss`, `grad_norm`, `learning_rate`, `epoch`, or other names.

        Raises:
            FaultFound: the log has an error now, and `stop` is set.
        """
        self._history.append({**values, "step": step})
        self._losses += "loss" in values or "eval_loss" in values
        breaks = not self._broken and not all(math.isfinite(values.get(name, 0.0)) for name in _MEASURED)
        self._broken = self._broken or breaks
        if breaks or self._losses >= self._next:
            self.examine_log()

    def examine_log(self, *, planned_steps: int | None = None) -> None:
        """Examine the log so far.

        Args:
            planned_steps: of the whole training, where known.
        Raises:
            FaultFound: it has an error, and `stop` is set.
        """
        if not self._losses:
            return
        self._next = max(self._losses + self._every, math.ceil(_GROWTH * self._losses))
        series = of_trainer_state({"log_history": self._history, "max_steps": planned_steps}, _LIVE)
        facts = with_facts(series.facts, vocabulary=self._vocabulary)
        self._tell("log", run_log_checks(Run(replace(series, source=_LIVE, facts=facts))))

    def _tell(self, of: str, checks: Sequence[CheckResult]) -> None:
        """Keep the checks, print what is new and more than a note, and end at an error."""
        self._checks[of] = checks
        found = [finding for one in checks for finding in one.findings if finding.severity != "note"]
        new = [finding for finding in found if finding.id not in self._shown]
        self._shown |= {finding.id for finding in new}
        errors = [finding for finding in new if finding.severity == "error"]
        if errors and self._stop:
            first = errors[0]
            raise FaultFound(
                f"{first.title} ({', '.join(finding.id for finding in errors)})",
                facts=[fact for finding in errors for fact in finding.evidence],
                fix="; ".join((*first.fix[:1], f"distillab doctor explain {first.id}", "stop=False only prints it")),
            )
        for finding in new:
            echo(f"doctor, {finding.severity}: {finding.title} ({finding.id})")
            for line in (*finding.evidence, *finding.fix):
                echo(f"  {line}")


class _Callback(TrainerCallback):
    """Hands the Trainer's log to the watch."""

    def __init__(self, watching: Watch) -> None:
        self._watching = watching

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            self._watching.log(state.global_step, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._watching.examine_log(planned_steps=state.max_steps)


def watch(
    trainer: Trainer,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    stop: bool = True,
    batches: int = BATCHES,
    every: int = EVERY,
    vocabulary: int | None = None,
    shifts: Shifts | None = "model",
    learns: Learns | None = None,
) -> Watch:
    """Examine the tokenizer, the first batches and the log of a Trainer of transformers, or of TRL, while it trains.

    Nothing that it computes is changed: batches are read as `training_step` gets them. The tokenizer is compared with
    the one in the folder that the model was loaded from, if there is one.

    Args:
        trainer: before `train()`.
        tokenizer: None: the Trainer's `processing_class`.
        stop, batches, every, vocabulary, shifts, learns: see `Watch`. Models of transformers shift the labels.
    Returns:
        The watch, with its findings.
    Raises:
        ConfigError: the Trainer has no fast tokenizer, and none is given.
        FaultFound: the model was loaded with another tokenizer, and `stop` is set.
    """
    found = tokenizer or trainer.processing_class
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ConfigError(
            "The Trainer has no fast tokenizer, with which its batches could be read.",
            facts=[f"processing_class: {type(found).__name__}"],
            fix="watch(trainer, tokenizer=AutoTokenizer.from_pretrained(…))",
        )
    watching = Watch(
        found,
        stop=stop,
        batches=batches,
        every=every,
        vocabulary=vocabulary,
        width=logits_rows(trainer.model),
        shifts=shifts,
        learns=learns,
    )
    watching.model(trainer.model)
    step = trainer.training_step

    def watched(model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        if trainer.is_world_process_zero():
            watching.batch(inputs)
        return step(model, inputs, *arguments, **named)

    trainer.training_step = watched  # type: ignore[method-assign]
    trainer.add_callback(_Callback(watching))
    return watching


@check("tokenizer of the model")
def check_model_tokenizer(model: Any, tokenizer: PreTrainedTokenizerFast) -> Checked:
    """Check whether equal ids mean the same to the tokenizer and to the model. Added tokens are no difference.

    Args:
        model: of transformers or PEFT; its configuration names what it was loaded from. Nothing is fetched.
    """
    place = str(getattr(getattr(model, "config", None), "_name_or_path", None) or "")
    if place == tokenizer.name_or_path:
        yield Scope(f"model and tokenizer are of {place or 'memory'}")
        return
    yield Scope(f"the model is of {place or 'memory'}")
    if not place or not (local_path(place).is_dir() if is_local(place) else was_fetched(place)):
        raise Skipped("what the model was loaded from is not on this machine")
    try:
        own = load_tokenizer(place)
    except DistillabError as error:
        raise Skipped(f"no tokenizer can be loaded from there: {error.rule}") from error
    given = LoadedTokenizer(tokenizer, "given", tokenizer.name_or_path, ())
    contract = compare_tokenizers(given, own, teacher_width=None, student_width=None)
    scope = f"{len(given.meanings):,} ids of the tokenizer, {len(own.meanings):,} of that in {place}"
    yield Scope(scope)
    if contract.verdict != "different":
        yield Scope(f"{scope}: {contract.verdict}")
        return
    common = min(len(given.meanings), len(own.meanings))
    yield from_page(
        "ids-of-another-tokenizer",
        f"of the first {common:,} ids {contract.equal_ids:,} mean the same to both",
        f"the tokenizer is of {tokenizer.name_or_path or 'memory'}, the model of {place}",
        case="of the model",
        severity="error" if contract.equal_ids < _MOST * common else "warning",
        example=side_by_side_lines(contract.example, names=("given", "model’s")),
    )


def logits_rows(model: Any) -> int | None:
    """Return the rows of the output layer by the model's configuration; None: it does not have them."""
    config = getattr(model, "config", None)
    rows = getattr(config.get_text_config() if isinstance(config, PreTrainedConfig) else None, "vocab_size", None)
    return rows if isinstance(rows, int) else None
