"""Load a tokenizer so that its ids are the ids that the model was trained on.

transformers can rebuild a tokenizer from its settings instead of reading `tokenizer.json`, and then produces
other ids (5.23 does so for TinyLlama on text with leading spaces). So the loaded tokenizer is compared with
the file on probe texts. Weights are never read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from huggingface_hub import constants
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from distillab.errors import DataError, TokenizerMismatch
from distillab.files import read_json
from distillab.gguf_header import read_header
from distillab.hub import reach_hub, was_fetched
from distillab.in_memory import IN_MEMORY, in_memory
from distillab.library_errors import library_errors
from distillab.pairing.gguf_tokenizer import gguf_tokenizer
from distillab.pairing.probes import PROBES
from distillab.pairing.token_bytes import TokenMeaning, token_meanings
from distillab.paths import is_gguf, is_local, local_path, require_folder
from distillab.pretrained import tokenizer_from
from distillab.redaction import redacted, revealed

_OTHER_FORMS = (("vocab.json", "merges.txt"), ("vocab.txt",))
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class LoadedTokenizer:
    """A loaded tokenizer.

    Args:
        tokenizer: transformers' fast tokenizer; its ids are the model's.
        name: last part of the folder's name, or the hub id.
        path: folder or hub id, as given.
        notes: what was done so that the ids are the model's; empty if nothing.
    """

    tokenizer: PreTrainedTokenizerFast
    name: str
    path: str
    notes: tuple[str, ...]

    @cached_property
    def meanings(self) -> list[TokenMeaning]:
        """Return the meaning of every id."""
        return token_meanings(self.tokenizer)


def load_tokenizer(path: str, *, revision: str | None = None) -> LoadedTokenizer:
    """Load a tokenizer and check it against its own `tokenizer.json`.

    Segmentation must agree exactly. Special tokens around a text are those that transformers adds; a note is made if
    `add_bos_token` or `add_eos_token` of tokenizer_config.json differ (5.23 follows tokenizer.json there).

    Args:
        path: folder, hub id or GGUF file. A path that exists, starts with `.`, `/` or `~`, or has two slashes is never
            looked up on the hub.
        revision: commit, tag or branch of a hub id.
    Raises:
        ConfigError: the folder does not exist, or is a file.
        DataError: tokenizer files are missing or damaged, or cannot be fetched from the hub.
        TokenizerMismatch: no way of loading produces the ids of `tokenizer.json`.
    """
    if (held := in_memory(path)) is not None:
        return cast(LoadedTokenizer, held.tokenizer)
    name = _name(path)
    with _quiet():
        if is_gguf(path):
            tokenizer, gguf_notes = gguf_tokenizer(path)
            return LoadedTokenizer(tokenizer, name, path, gguf_notes)
        file = find_file(path, "tokenizer.json", revision)
        if file is None:
            _require_other_form(path, revision)
            tokenizer = _from_pretrained(path, revision, rebuild=True)
            note = "there is no tokenizer.json: it was built from the vocabulary files and could not be checked"
            return LoadedTokenizer(tokenizer, name, path, (note,))
        reference = _read_reference(file)
        notes: list[str] = []
        tokenizer = _from_pretrained(path, revision, rebuild=True)
        wrong = _disagreements(tokenizer, reference)
        if wrong:
            rebuilt_as = type(tokenizer).__name__
            tokenizer = _from_pretrained(path, revision, rebuild=False)
            still_wrong = _disagreements(tokenizer, reference)
            if still_wrong:
                text, loaded_ids, file_ids = still_wrong[0]
                raise TokenizerMismatch(
                    "The loaded tokenizer does not give the ids of its own tokenizer.json.",
                    where=path,
                    facts=[
                        f"{len(still_wrong)} of {len(PROBES)} probe texts differ, first {text!r}",
                        f"loaded:         {loaded_ids}",
                        f"tokenizer.json: {file_ids}",
                    ],
                    fix="find out which of tokenizer.json and tokenizer_config.json belongs to the weights, "
                    "and remove the settings of the other that change ids",
                )
            text, loaded_ids, file_ids = min(wrong, key=lambda w: len(w[0]))
            notes.append(
                f"AutoTokenizer builds {rebuilt_as} with other ids than tokenizer.json on {len(wrong)} of "
                f"{len(PROBES)} probe texts, e.g. {text!r}: {loaded_ids} instead of {file_ids}; "
                "loaded with PreTrainedTokenizerFast, which agrees"
            )
        notes.extend(_unheeded_settings(tokenizer, path, revision))
    return LoadedTokenizer(tokenizer, name, path, tuple(notes))


def checked_tokenizer(tokenizer: PreTrainedTokenizerFast) -> LoadedTokenizer:
    """Check a tokenizer in memory against the `tokenizer.json` that it was loaded from, where that is at hand.

    Raises:
        TokenizerMismatch: it gives other ids.
    """
    path = tokenizer.name_or_path
    found = path and (local_path(path).is_dir() if is_local(path) else was_fetched(path))
    file = find_file(path, "tokenizer.json", None) if found else None
    wrong = [] if file is None else _disagreements(tokenizer, _read_reference(file))
    if wrong:
        text, loaded_ids, file_ids = min(wrong, key=lambda w: len(w[0]))
        raise TokenizerMismatch(
            "The tokenizer in memory does not give the ids of the tokenizer.json that it was loaded from.",
            where=path,
            facts=[
                f"{len(wrong)} of {len(PROBES)} probe texts differ, e.g. {text!r}",
                f"in memory:      {loaded_ids}",
                f"tokenizer.json: {file_ids}",
            ],
            fix="give the path, and it is loaded with the ids of its file; or, where the change is meant, save the "
            "tokenizer to a folder of its own and load it from there",
        )
    return LoadedTokenizer(tokenizer, IN_MEMORY, IN_MEMORY, ())


def logits_width(path: str, revision: str | None = None) -> int | None:
    """Return `vocab_size` of `config.json` or of a GGUF file, the rows of the model's output layer; None if not stated.

    Raises:
        ConfigError: the folder does not exist.
        DataError: config.json is not JSON, its `vocab_size` is not a count, or it cannot be fetched from the hub.
    """
    if (held := in_memory(path)) is not None:
        return int(held.config.get_text_config().vocab_size)
    if is_gguf(path):
        return read_header(local_path(path), error=DataError).vocab_size
    with _quiet():
        file = find_file(path, "config.json", revision)
    if file is None:
        return None
    config = _read_json(file)
    width = config.get("vocab_size")
    if width is None and isinstance(config.get("text_config"), dict):
        width = config["text_config"].get("vocab_size")
    if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
        raise DataError("vocab_size is not a count of tokens.", where=str(file), facts=[f"vocab_size: {width!r}"])
    return width


def find_file(path: str, filename: str, revision: str | None) -> Path | None:
    """Return a file of the folder or of the hub's repository; None if that exists but the file does not, or is GGUF."""
    if is_gguf(path):
        return None
    if is_local(path):
        folder = require_folder(path, whose="tokenizer")
        file = folder / filename
        return file if file.is_file() else None
    reach_hub()
    where = path if revision is None else f"{path} (revision {revision})"
    fix = "give an existing folder (starting with ./ or /), or check the hub id, its access and the connection"
    rule = "There is no such folder, and it cannot be fetched from the hub."
    with library_errors(DataError, rule, where=where, fix=fix):
        found = cached_file(revealed(path), filename, revision=revision, _raise_exceptions_for_missing_entries=False)
    if found is None and constants.HF_HUB_OFFLINE and not was_fetched(revealed(path)):
        raise DataError(rule, where=where, facts=["offline mode, and nothing of it is in the hub's cache"], fix=fix)
    return Path(found) if found is not None else None


def _name(path: str) -> str:
    return redacted(local_path(path).resolve().name) if is_local(path) else path


def _require_other_form(path: str, revision: str | None) -> None:
    """Accept vocabulary files that convert exactly in place of tokenizer.json, refuse others.

    AutoTokenizer does not refuse: from tokenizer_config.json alone it makes a tokenizer of three tokens, and from a
    SentencePiece file one whose merges are in another order.
    """
    if any(all(find_file(path, name, revision) for name in form) for form in _OTHER_FORMS):
        return
    pieces = [name for name in _SENTENCEPIECE_FILES if find_file(path, name, revision)]
    if pieces:
        raise DataError(
            "A tokenizer with a fast backend is needed: tokenizer.json is missing.",
            where=path,
            facts=[f"found {pieces[0]}, whose conversion is known to give other ids on some texts"],
            fix="put tokenizer.json of the model's own repository into the folder",
        )
    raise DataError(
        "There are no tokenizer files.",
        where=path,
        facts=[
            "missing: tokenizer.json (or vocab.json with merges.txt, or vocab.txt)",
            *([f"the folder holds: {_listing(local_path(path))}"] if is_local(path) else []),
        ],
        fix="put tokenizer.json and tokenizer_config.json of the model into the folder, "
        "or name the tokenizer by itself (tokenizer: … in the recipe)",
    )


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return (", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")) or "nothing"


def _read_json(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError("The file is not a JSON object.", where=str(file))
    return content


def _read_reference(file: Path) -> Tokenizer:
    _read_json(file)
    with library_errors(DataError, "The file is not a tokenizer.", where=str(file)):
        reference = Tokenizer.from_file(str(file))
    reference.no_truncation()
    reference.no_padding()
    return reference


def _from_pretrained(path: str, revision: str | None, *, rebuild: bool) -> PreTrainedTokenizerFast:
    source = str(local_path(path)) if is_local(path) else revealed(path)
    with library_errors(
        DataError,
        "transformers cannot load the tokenizer.",
        where=path,
        fix="check tokenizer_config.json, and config.json beside it; code in the folder is never run",
    ):
        tokenizer = tokenizer_from(source, revision=revision, rebuild=rebuild)
    if not tokenizer.is_fast:
        raise DataError(
            "A tokenizer with a fast backend is needed.",
            where=path,
            facts=[f"{type(tokenizer).__name__} is written in Python"],
            fix="use a model that ships tokenizer.json",
        )
    fast: PreTrainedTokenizerFast = tokenizer
    return fast


def _disagreements(tokenizer: PreTrainedTokenizerFast, reference: Tokenizer) -> list[tuple[str, list[int], list[int]]]:
    """Return the probe texts that differ, each with the ids of both."""
    loaded = tokenizer(list(PROBES), add_special_tokens=False)["input_ids"]
    in_file = [encoding.ids for encoding in reference.encode_batch(list(PROBES), add_special_tokens=False)]
    return [(t, a, b) for t, a, b in zip(PROBES, loaded, in_file, strict=True) if a != b]


def _unheeded_settings(tokenizer: PreTrainedTokenizerFast, path: str, revision: str | None) -> list[str]:
    """Return notes on settings of tokenizer_config.json that the loaded tokenizer does not follow."""
    file = find_file(path, "tokenizer_config.json", revision)
    if file is None:
        return []
    config, ids = _read_json(file), tokenizer("hello")["input_ids"]
    adds = {"add_bos_token": ids[0] == tokenizer.bos_token_id, "add_eos_token": ids[-1] == tokenizer.eos_token_id}
    return [
        f"tokenizer_config.json has {key}: {str(config[key]).lower()}, but tokenizer.json differs and is followed: "
        f"'hello' is {ids}"
        for key, done in adds.items()
        if isinstance(config.get(key), bool) and config[key] != done
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence log lines of loading: what matters is checked here and put into the notes."""
    hub = logging.getLogger("huggingface_hub")
    before, hub_before = transformers_logging.get_verbosity(), hub.level
    transformers_logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        hub.setLevel(hub_before)
