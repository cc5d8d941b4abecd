"""Compare the tokenizer of a training with the one that the model's own folder holds."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from distillab.doctor.page import from_page
from distillab.doctor.pair.contract import side_by_side_lines
from distillab.errors import DistillabError
from distillab.hub import was_fetched
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer
from distillab.paths import is_local, local_path
from distillab.records import CheckResult

CHECK_ID = "tokenizer of the model"
# of the ids: below it another vocabulary, above it tokens that were exchanged for own ones
_MOST = 0.5


def check_model_tokenizer(model: Any, tokenizer: PreTrainedTokenizerFast) -> CheckResult:
    """Check whether equal ids mean the same to the tokenizer and to the model. Added tokens are no difference.

    Args:
        model: of transformers or PEFT; its configuration names what it was loaded from. Nothing is fetched.
    """
    place = str(getattr(getattr(model, "config", None), "_name_or_path", None) or "")

    def skipped(why: str) -> CheckResult:
        return CheckResult(check=CHECK_ID, scope=f"the model is of {place or 'memory'}", skipped=why)

    if place == tokenizer.name_or_path:
        return CheckResult(check=CHECK_ID, scope=f"model and tokenizer are of {place or 'memory'}")
    if not place or not (local_path(place).is_dir() if is_local(place) else was_fetched(place)):
        return skipped("what the model was loaded from is not on this machine")
    try:
        own = load_tokenizer(place)
    except DistillabError as error:
        return skipped(f"no tokenizer can be loaded from there: {error.rule}")
    given = LoadedTokenizer(tokenizer, "given", tokenizer.name_or_path, ())
    contract = compare_tokenizers(given, own, teacher_width=None, student_width=None)
    scope = f"{len(given.meanings):,} ids of the tokenizer, {len(own.meanings):,} of that in {place}"
    if contract.verdict != "different":
        return CheckResult(check=CHECK_ID, scope=f"{scope}: {contract.verdict}")
    common = min(len(given.meanings), len(own.meanings))
    finding = from_page(
        "ids-of-another-tokenizer",
        f"of the first {common:,} ids {contract.equal_ids:,} mean the same to both",
        f"the tokenizer is of {tokenizer.name_or_path or 'memory'}, the model of {place}",
        case="of the model",
        severity="error" if contract.equal_ids < _MOST * common else "warning",
        example=side_by_side_lines(contract.example, names=("given", "model’s")),
    )
    return CheckResult(check=CHECK_ID, scope=scope, findings=(finding,))


def logits_rows(model: Any) -> int | None:
    """Return the rows of the output layer by the model's configuration; None: it does not have them."""
    config = getattr(model, "config", None)
    rows = getattr(config.get_text_config() if isinstance(config, PreTrainedConfig) else None, "vocab_size", None)
    return rows if isinstance(rows, int) else None
