"""Read the turns of a conversation strictly: role/content or from/value, content in parts, tool calls."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distillab.data.examples import Message, Role
from distillab.data.textfiles import parse_json

# role names of OpenAI's, ShareGPT's and Gemma's formats
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_CALL = "function_call"  # as a role: ShareGPT; as a key: OpenAI's older form
_READ = ("role", "from", "content", "value", "weight", "name", "tool_call_id", "tool_calls", _CALL)


class Unusable(Exception):
    """The reason why one row cannot be read."""


def checked_text(value: Any, name: str) -> str:
    """Return a value that must be text in valid Unicode.

    Raises:
        Unusable: it is not.
    """
    if value is None:
        raise Unusable(f"{name} is null")
    if not isinstance(value, str):
        raise Unusable(f"{name} is a {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable(f"{name} holds half a surrogate pair at character {error.start}") from error
    return value


def holds_turns(value: Any) -> bool:
    """Return whether a value is a list of turns."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and _keys(item) for item in value)


def read_turns(value: Any, name: str) -> tuple[Message, ...]:
    """Return the turns of a list, or of a JSON list as text.

    Args:
        name: of the column, for messages.
    Raises:
        Unusable: not a list, or a turn cannot be read.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_json(value, f'"{name}"')
    if not isinstance(value, list) or not value:
        raise Unusable(f'"{name}" is not a list of turns')
    return tuple(_turn(item, f"turn {number}") for number, item in enumerate(value, start=1))


def check_order(turns: Sequence[Message]) -> None:
    """Check the order: an optional system turn, then user and assistant alternating, tool turns after their calls.

    Raises:
        Unusable: the first turn that is out of order.
    """
    others = turns[1:] if turns[0].role == "system" else turns
    allowed: tuple[Role, ...] = ("user",)
    for number, turn in enumerate(others, start=1 + len(turns) - len(others)):
        if turn.role not in allowed:
            raise Unusable(f"turn {number} is {turn.role}, where {' or '.join(allowed)} is expected")
        allowed = _behind(turn)
    if turns[-1].role != "assistant":
        raise Unusable(f"ends with a {turns[-1].role} turn; the last turn must be the assistant's")
    if not turns[-1].supervised:
        raise Unusable("the last turn has weight 0, so there is no answer to train on")


def given(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns with none of them trained on."""
    return tuple(replace(turn, supervised=False) if turn.role == "assistant" else turn for turn in turns)


def read_tools(value: Any, name: str) -> str:
    """Return a list of tools as JSON; empty if there is none.

    Raises:
        Unusable: not a list of objects.
    """
    if isinstance(value, str) and value.strip():
        value = from_json(value, f'"{name}"')
    if value in (None, "", []) or (isinstance(value, str) and not value.strip()):
        return ""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unusable(f'"{name}" is not a list of tools')
    return _json([_without_nulls(item) for item in value], f'"{name}"')


def from_json(text: str, name: str) -> Any:
    """Parse a JSON text.

    Raises:
        Unusable: it is not JSON.
    """
    try:
        return parse_json(text)
    except ValueError as error:
        raise Unusable(f"{name} is text that is not JSON ({error})") from error


def _behind(turn: Message) -> tuple[Role, ...]:
    if turn.role == "assistant":
        return ("tool",) if turn.tool_calls else ("user",)
    return ("assistant", "tool") if turn.role == "tool" else ("assistant",)


def _keys(item: dict[str, Any]) -> tuple[str, str] | None:
    """Return the keys of the role and of the content of a turn."""
    role = next((key for key in ("role", "from") if key in item), None)
    content = next((key for key in ("content", "value") if key in item), None)
    if role is None or (content is None and not item.get("tool_calls") and not item.get(_CALL)):
        return None
    return role, content or "content"


def _turn(item: Any, place: str) -> Message:
    keys = _keys(item) if isinstance(item, dict) else None
    if keys is None:
        found = ", ".join(item) if isinstance(item, dict) else type(item).__name__
        raise Unusable(f"{place} has no role and content, nor from and value (it has: {found})")
    # Dropping reasoning or images would train on half a conversation.
    extra = [key for key, value in item.items() if key not in _READ and value is not None]
    if extra:
        raise Unusable(f"{place} has keys that cannot be trained on: {', '.join(extra)}")
    role, content = item[keys[0]], item.get(keys[1])
    if role == _CALL:
        calls = from_json(checked_text(content, place), place)
        return Message("assistant", "", tool_calls=_calls(calls if isinstance(calls, list) else [calls], place))
    if not isinstance(role, str) or role not in _ROLES:
        raise Unusable(f'{place} has the role "{role}"; roles: {", ".join((*_ROLES, _CALL))}')
    calls = item.get("tool_calls") or ([item[_CALL]] if item.get(_CALL) else None)
    if calls is not None and _ROLES[role] != "assistant":
        raise Unusable(f"{place} has the role {role} and tool calls, which only an assistant makes")
    if content is None and calls is not None:
        content = ""
    name, call_id = item.get("name"), item.get("tool_call_id")
    if (name or call_id) and _ROLES[role] != "tool":
        raise Unusable(f"{place} has keys that cannot be trained on: {'name' if name else 'tool_call_id'}")
    return Message(
        _ROLES[role],
        _content(content, place),
        supervised=_is_supervised(item.get("weight"), place),
        tool_calls="" if calls is None else _calls(calls, place),
        name=checked_text(name or "", f"{place}, name"),
        call_id=checked_text(call_id or "", f"{place}, tool_call_id"),
    )


def _content(value: Any, place: str) -> str:
    if not isinstance(value, list):
        return checked_text(value, place)
    texts = []
    for number, part in enumerate(value, start=1):
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if kind != "text":
            raise Unusable(f'{place}, part {number} is of the type "{kind}"; only text is read')
        texts.append(checked_text(part.get("text"), f"{place}, part {number}"))
    return "".join(texts)


def _is_supervised(weight: Any, place: str) -> bool:
    if weight is None:
        return True
    if weight not in (0, 1):
        raise Unusable(f"{place} has the weight {weight}; write 1 (trained on) or 0 (context only)")
    return bool(weight)


def _calls(calls: Any, place: str) -> str:
    if not isinstance(calls, list) or not calls:
        raise Unusable(f"{place} has tool calls that are not a list")
    return _json([_call(call, place) for call in calls], place)


def _call(call: Any, place: str) -> dict[str, Any]:
    """Return one call as chat templates read it: arguments are an object, not JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Unusable(f"{place} has a tool call without a function name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = from_json(arguments, f"{place}, arguments of {function['name']}")
    if arguments is not None and not isinstance(arguments, dict):
        raise Unusable(f"{place}, arguments of {function['name']} are not an object")
    made: dict[str, Any] = {"type": "function"}
    if isinstance(call.get("id"), str):
        made["id"] = call["id"]
    return made | {"function": {"name": function["name"], "arguments": _without_nulls(arguments or {})}}


def _without_nulls(value: Any) -> Any:
    # Parquet gives every object the keys of all others, with null values.
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _json(value: Any, name: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable(f"{name} cannot be written as JSON ({error})") from error
    return checked_text(text, name)


def is_blank(value: Any) -> bool:
    """Return whether a value is missing: null, NaN, or only white space."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )
