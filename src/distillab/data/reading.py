"""The `Reader` of a model: its tokenizer and the encoder with its template."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from distillab.data.collation import Collator, PaddingSide
from distillab.data.encoding import Encoder
from distillab.data.examples import Kind
from distillab.data.templates import resolve_templates
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer


@dataclass(frozen=True)
class Reader:
    """A loaded tokenizer and the encoder built on it."""

    loaded: LoadedTokenizer
    encoder: Encoder

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the transformers tokenizer."""
        return self.loaded.tokenizer

    def collator(self, padding_side: PaddingSide = "right", *, packing: bool = False) -> Collator:
        """Return the collator for this tokenizer.

        Args:
            packing: put several rows into one sequence of at most the encoder's `max_tokens`.
        """
        return Collator(self.encoder.pad_id, padding_side, self.encoder.max_tokens if packing else None)


def load_reader(
    path: str,
    *,
    revision: str | None,
    template: str | Mapping[str, str],
    kind: Kind,
    max_tokens: int,
    date: datetime.date | None = None,
    requires_generation_prompt: bool = True,
) -> Reader:
    """Load the reader of the model at `path` for examples of one kind.

    Args:
        template: its name; or `DataConfig.templates`.
        date: the day that a chat template which writes the date gets; default: today.
        requires_generation_prompt: as for `Chat`; True for a model that is trained.
    Raises:
        TokenizerMismatch, DataError, ConfigError: see `load_tokenizer`, `Encoder`, `resolve_template`.
    """
    loaded = load_tokenizer(path, revision=revision)
    names = {"": template} if isinstance(template, str) else template
    form = resolve_templates(names, loaded.tokenizer, kind, date, requires_generation_prompt=requires_generation_prompt)
    return Reader(loaded, Encoder(loaded.tokenizer, form, max_tokens))
