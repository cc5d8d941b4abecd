"""Distinguish local folders, hub ids and URLs."""

from __future__ import annotations

import re
from pathlib import Path

from distillab.errors import ConfigError, DistillabError
from distillab.redaction import has_password, revealed

_HUB_URL = re.compile(r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(?:models/)?([\w.-]+/[\w.-]+)(/.*)?")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def is_local(path: str) -> bool:
    """Return whether a text means a local folder and not a hub id such as "organisation/model".

    >>> is_local("./model"), is_local("organisation/model"), is_local("a/b/c")
    (True, False, True)
    """
    place = revealed(path)
    return place.startswith((".", "/", "~")) or place.count("/") > 1 or is_gguf(path) or Path(place).exists()


def is_gguf(path: str) -> bool:
    """Return whether a text means a GGUF file, which is a whole model: configuration, weights and tokenizer.

    >>> is_gguf("models/model.Q4_1.gguf"), is_gguf("organisation/model")
    (True, False)
    """
    return revealed(path).endswith(".gguf") and not local_path(path).is_dir()


def require_no_password(text: str, *, where: str) -> None:
    """Check that no address in a text has `user:password@`, because recipes and commands are written to records.

    Raises:
        ConfigError: one has; the message does not repeat it.
    """
    if has_password(text):
        raise ConfigError(
            "An address holds a user's password, and addresses are kept in records.",
            where=where,
            facts=[f"text: {text}"],
            fix="remove user:password@; the store's client reads it from environment variables or ~/.netrc",
        )


def local_path(path: str) -> Path:
    """Return the path of a local text, with ~ and secrets replaced."""
    return Path(revealed(path)).expanduser()


def is_url(text: str) -> bool:
    """Return whether a text has a scheme such as `s3://`.

    >>> is_url("https://huggingface.co/a/b"), is_url("s3://bucket/name"), is_url("a/b")
    (True, True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def require_folder(path: str, *, whose: str, error: type[DistillabError] = ConfigError) -> Path:
    """Return the folder of a model or tokenizer.

    Args:
        whose: "student", "teacher", …, for the message.
        error: the class to raise.
    Raises:
        DistillabError: of the class `error`: it is a URL, a file, or does not exist.
    """
    folder = local_path(path)
    if folder.is_dir():
        return folder
    if is_url(path):
        hub = _HUB_URL.fullmatch(path)
        raise error(
            f"The {whose} must be a folder or a hub id, not a URL.",
            where=path,
            fix=f"write {hub[1]}" if hub else "download it and give its folder, or give its hub id: organisation/model",
        )
    if folder.exists():
        raise error(
            f"The {whose} must be a folder, not a file.",
            where=path,
            fix=f"give its folder: {folder.parent}"
            if folder.suffix in _WEIGHTS
            else "give the folder that holds config.json, the weights and the tokenizer",
        )
    nearest = next(parent for parent in (*folder.absolute().parents, Path("/")) if parent.is_dir())
    raise error(
        f"The {whose}'s folder does not exist.",
        where=path,
        facts=[f"nearest existing folder: {nearest}"],
        fix="give the folder that holds config.json and the weights, or a hub id: organisation/model",
    )
