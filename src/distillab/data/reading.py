"""One model's way of reading rows: its tokenizer and the encoder with its template."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from distillab.data.collation import Collator, PaddingSide
from distillab.data.encoding import Encoder
from distillab.data.examples import Kind
from distillab.data.templates import resolve_template
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer


@dataclass(frozen=True)
class Reader:
    """A tokenizer, as it was loaded, and the encoder built on it."""

    loaded: LoadedTokenizer
    encoder: Encoder

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The transformers tokenizer."""
        return self.loaded.tokenizer

    def collator(self, padding_side: PaddingSide = "right", *, packing: bool = False) -> Collator:
        """Rows -> batches for this tokenizer.

        Args:
            packing: several rows in one sequence, of at most as many tokens as the encoder lets a row have.
        """
        return Collator(self.encoder.pad_id, padding_side, self.encoder.max_tokens if packing else None)


def load_reader(
    path: str,
    *,
    revision: str | None,
    template: str,
    kind: Kind,
    max_tokens: int,
    date: datetime.date | None = None,
    requires_generation_prompt: bool = True,
) -> Reader:
    """The reader of the model at `path` for examples of one kind.

    Args:
        date: the day that a chat template which writes the date gets; default: today.
        requires_generation_prompt: as for `Chat`; True for a model that is trained.
    Raises:
        TokenizerMismatch, DataError, ConfigError: see `load_tokenizer`, `Encoder`, `resolve_template`.
    """
    loaded = load_tokenizer(path, revision=revision)
    form = resolve_template(
        template, loaded.tokenizer, kind, date, requires_generation_prompt=requires_generation_prompt
    )
    return Reader(loaded, Encoder(loaded.tokenizer, form, max_tokens))
