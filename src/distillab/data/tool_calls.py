"""Pass tools and tool calls to a chat template, and check that it renders them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distillab.data.examples import Example, Message
from distillab.errors import DataError


def template_turn(turn: Message, text: Callable[[str], str]) -> dict[str, Any]:
    """Return a turn as chat templates read it.

    Args:
        text: applied to every text of the data.
    """
    values: dict[str, Any] = {"role": turn.role, "content": text(turn.content)}
    if turn.tool_calls:
        values["tool_calls"] = within(json.loads(turn.tool_calls), text)
    named = {"name": turn.name, "tool_call_id": turn.call_id}
    return values | {key: text(value) for key, value in named.items() if value}


def within(value: Any, text: Callable[[str], str]) -> Any:
    """Apply `text` to every text in a JSON value, keys included."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {text(key): within(item, text) for key, item in value.items()}
    return [within(item, text) for item in value] if isinstance(value, list) else value


def check_calls(rendered: str, turns: Sequence[Message], example: Example) -> None:
    """Check that the names of all tools and called functions are in the rendering.

    Templates without tool support silently leave them out, and half a conversation would be trained on.

    Raises:
        DataError: a name is missing.
    """
    lacking = [name for name in _names(turns, example.tools) if name not in rendered]
    if lacking:
        raise DataError(
            "The chat template leaves out tools or tool calls.",
            where=example.origin,
            facts=[f"not in its rendering: {', '.join(dict.fromkeys(lacking))}"],
            fix="use a tokenizer whose chat_template reads tools and tool_calls, or remove such rows",
        )


def require_no_calls(example: Example, template: str) -> None:
    """Check that a conversation has no tools, for a template that does not support them.

    Raises:
        DataError: it has tools or tool calls.
    """
    if example.tools or any(turn.role == "tool" or turn.tool_calls for turn in example.messages):
        raise DataError(
            f"The template {template} does not support tools.",
            where=example.origin,
            fix="write data.template: chat, with a tokenizer whose chat_template reads tools",
        )


def _names(turns: Sequence[Message], tools: str) -> Iterator[str]:
    for turn in turns:
        for call in json.loads(turn.tool_calls or "[]"):
            yield call["function"]["name"]
    for tool in json.loads(tools or "[]"):
        name = tool.get("function", tool)
        if isinstance(name, dict) and isinstance(name.get("name"), str):
            yield name["name"]
