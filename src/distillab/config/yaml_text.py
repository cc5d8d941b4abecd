"""Read YAML 1.2 of bounded size and depth, so that nested aliases cannot fill the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from distillab.errors import ConfigError

LONGEST_BYTES = 1 << 20
MOST_VALUES = 20_000
DEEPEST = 50
_SHOWN = 5
_CHARACTERS_A_VALUE = 100  # a long text counts as several values


def read_text(path: Path) -> str:
    """Read the text of a recipe file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or is too large.
    """
    if path.is_dir():
        recipes = sorted(item.name for item in path.iterdir() if item.suffix in (".yaml", ".yml"))[:_SHOWN]
        raise ConfigError(
            "A recipe is a file, not a folder.",
            where=str(path),
            facts=[f"recipes in it: {', '.join(recipes) or 'none'}"],
            fix=f"give the file: {path / recipes[0]}" if recipes else "give the recipe's file (YAML)",
        )
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"The recipe cannot be read: {error.strerror}.", where=str(path)) from error
    if len(content) > LONGEST_BYTES:
        raise ConfigError(
            "The file is too large for a recipe.",
            where=str(path),
            facts=[f"more than {LONGEST_BYTES:,} bytes"],
            fix="give the recipe's file, not a data or model file",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("The recipe is not UTF-8.", where=f"{path}, byte {error.start}") from error


def parse(text: str, *, where: str) -> Any:
    """Parse a YAML text, after checking its size with all aliases expanded.

    Raises:
        YAMLError: it is not YAML.
        ConfigError: it is nested too deep, its aliases expand to too many values, or a number or date is invalid.
    """
    require_bounded(text, where)
    try:
        return _yaml().load(text)
    except ValueError as error:  # an integer of thousands of digits, the 30th of February
        raise ConfigError("A value of the recipe cannot be read.", where=where, facts=[str(error)[:200]]) from error


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = "1.2"
    return yaml


def require_bounded(text: str, where: str) -> None:
    """Count the values with every alias expanded, in one pass over the parser's events."""
    anchors: dict[str, int] = {}
    open_anchors: list[str | None] = []
    sizes = [0]  # sizes of the open collections, the whole text first
    for event in _yaml().parse(text):
        if isinstance(event, CollectionStartEvent):
            open_anchors.append(event.anchor)
            sizes.append(1)
            if len(open_anchors) > DEEPEST:
                raise ConfigError("The recipe is nested too deep.", where=_line(where, event), facts=[_limit(DEEPEST)])
        elif isinstance(event, CollectionEndEvent):
            size, anchor = sizes.pop(), open_anchors.pop()
            sizes[-1] += size
            if anchor is not None:
                anchors[anchor] = size
        elif isinstance(event, ScalarEvent):
            size = 1 + len(event.value) // _CHARACTERS_A_VALUE
            sizes[-1] += size
            if event.anchor is not None:
                anchors[event.anchor] = size
        elif isinstance(event, AliasEvent):
            if event.anchor in open_anchors:
                raise ConfigError("An alias of the recipe contains itself.", where=_line(where, event))
            sizes[-1] += anchors.get(event.anchor, 0)  # an unknown one is an error of the loader
        if sum(sizes) > MOST_VALUES:
            raise ConfigError(
                "The aliases of the recipe expand to too many values.",
                where=_line(where, event),
                facts=[_limit(MOST_VALUES)],
                fix="write the values without aliases",
            )


def _line(where: str, event: Any) -> str:
    return f"{where}, line {event.start_mark.line + 1}"


def _limit(count: int) -> str:
    return f"limit: {count:,}"
