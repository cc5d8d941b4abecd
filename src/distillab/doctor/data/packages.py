"""The packages of the extra `text`. Without them a check names what it leaves out."""

from __future__ import annotations

from importlib.util import find_spec

LANGUAGES, ENCODINGS = "py3langid", "ftfy"


def not_checked(what: str, package: str) -> str | None:
    """Return the words for what is left out because a package is missing; None: it is there."""
    return None if find_spec(package) is not None else f"not checked: {what} (pip install 'distillab[text]')"
