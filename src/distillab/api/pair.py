"""`dl.check_pair`: `distillab check`, for objects in memory too."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from distillab.api.given import Model, Rows, Tokenizer, given, rows_of, tokenizer_of, width_of
from distillab.cli.check import show_pair, texts_of
from distillab.pairing.admission import pair_check
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.embedded import require_embedded
from distillab.records import MethodAdmission, PairCheck, TokenizerContract, Verdict
from distillab.terminal import plain_console

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, repr=False)
class PairReport:
    """Whether a student can learn from a teacher, and by which methods. It is printed as the CLI's text.

    Attributes:
        record: the whole check, as `distillab check --json` prints it.
    """

    record: PairCheck

    @property
    def verdict(self) -> Verdict:
        """`identical`, `padded`, `extended` or `different`: whether equal ids mean equal tokens."""
        return self.record.contract.verdict

    @property
    def contract(self) -> TokenizerContract:
        """What the two tokenizers have in common, with the evidence."""
        return self.record.contract

    @property
    def methods(self) -> dict[str, MethodAdmission]:
        """Every method by its name: whether the pair allows it, and why."""
        return {method.method: method for method in self.record.methods}

    @property
    def recommended(self) -> str:
        """The method to begin with."""
        return self.record.recommended.method

    def __str__(self) -> str:
        return self._printed().export_text().rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the same text with its colours, for a notebook."""
        return self._printed().export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _printed(self) -> Console:
        console = plain_console(StringIO(), record=True)
        show_pair(self.record, console)
        return console


def check_pair(teacher: Model | Tokenizer, student: Model | Tokenizer, *, data: Rows | None = None) -> PairReport:
    """Check from the tokenizers whether a student can learn from a teacher; no forward pass is made.

    Args:
        teacher, student: each a folder or hub id, a model, a tokenizer, or (model, tokenizer). For a model
            without a tokenizer, it is read from the folder or hub id that the model names.
        data: rows (path, `datasets.Dataset`, `pandas.DataFrame`, list of dicts) on which the overlap of the two
            tokenisations is measured; default: a sample in many languages.
    Raises:
        ConfigError: an object of another kind; a model without a tokenizer.
        TokenizerMismatch: a tokenizer in memory gives other ids than the file that it was loaded from.
        DataError: a tokenizer has tokens that its model has no embedding for; the rows hold no text.
    """
    both = given(teacher, role="teacher"), given(student, role="student")
    loaded = [tokenizer_of(found, role=role) for found, role in zip(both, ("teacher", "student"), strict=True)]
    widths = [width_of(found) for found in both]
    for role, side, width in zip(("teacher", "student"), loaded, widths, strict=True):
        require_embedded(side, width=width, role=role)
    texts, source = ([], "") if data is None else texts_of(*rows_of(data, name="data"))
    contract = compare_tokenizers(
        loaded[0], loaded[1], teacher_width=widths[0], student_width=widths[1], texts=texts, source=source
    )
    return PairReport(pair_check(contract))
