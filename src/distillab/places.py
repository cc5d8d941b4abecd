"""Folders of this machine, and ids of a hub: which of the two a text means."""

from __future__ import annotations

from pathlib import Path

from distillab.errors import ConfigError
from distillab.hidden import has_password, revealed


def is_local(path: str) -> bool:
    """True where a text means a folder of this machine, never a hub id such as "organisation/model".

    >>> is_local("./model"), is_local("organisation/model"), is_local("a/b/c")
    (True, False, True)
    """
    place = revealed(path)
    return place.startswith((".", "/", "~")) or place.count("/") > 1 or Path(place).exists()


def require_no_password(text: str, *, where: str) -> None:
    """Check that no address in a text has `user:password@`, because texts of recipes and commands are kept.

    Raises:
        ConfigError: one has; the message does not repeat it.
    """
    if has_password(text):
        raise ConfigError(
            "An address holds a user's password, and addresses are kept in records.",
            where=where,
            facts=[f"text: {text}"],
            fix="take user:password@ out; the store's client reads it from its variables or ~/.netrc",
        )


def local_path(path: str) -> Path:
    """The folder that a local text means, with ~ and secrets replaced."""
    return Path(revealed(path)).expanduser()
