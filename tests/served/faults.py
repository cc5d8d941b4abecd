"""What a server can do wrong: its misbehaviours in the form of vLLM's answers, and what must follow from each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from distillab.teachers.served.dialects.dialect import Wanted
from tests.served.faulty_server import Bytes, Fault, Instead, Status, W, vllm_answer

K = 5
ROW = Wanted([1, 7, 3, 30, 22, 9, 4], (2, 3, 4, 5, 6), K, W, "row 1")
Outcome = Literal["again", "row", "run"]
"""Asked again; the row fails and is counted; the run stops at once."""


def positions(answer: dict[str, Any]) -> list[dict[str, Any] | None]:
    found: list[dict[str, Any] | None] = answer["choices"][0]["prompt_logprobs"]
    return found


def entry(answer: dict[str, Any], place: int = 3) -> dict[str, Any]:
    """The entries of a scored position."""
    found = positions(answer)[place]
    assert found is not None
    return found


TRIED_AGAIN: dict[str, Status | Bytes] = {
    "429 with Retry-After": Status(429, headers={"retry-after": "7"}),
    "429 without it": Status(429),
    "a Retry-After that is no number": Status(429, headers={"retry-after": "soon"}),
    "500": Status(500),
    "502 of a proxy, as HTML": Status(502, b"<html>Bad gateway</html>"),
    "503": Status(503),
    "529": Status(529),
    "408": Status(408),
    "cut JSON, whole HTTP": Bytes(of=lambda content: content[:-40]),
    "an empty answer": Bytes(of=lambda content: b""),
    "a connection closed in the middle": Bytes(cut_at=60),
    "a connection closed before the first byte": Bytes(cut_at=0),
    "bytes that are no UTF-8": Bytes(of=lambda content: content.replace(b'"table"', b'"\xff\xfe"')),
    "two answers in one": Bytes(of=lambda content: content + content),
    "a page of a proxy with status 200": Bytes(
        of=lambda content: b"<html>log in</html>", headers={"content-type": "text/html"}
    ),
    "compressed, it says": Bytes(headers={"content-encoding": "gzip"}),
    "ten thousand brackets": Bytes(
        of=lambda content: content.replace(
            b'"request": ', b'"deep": ' + b"[" * 10_000 + b"]" * 10_000 + b', "request": '
        )
    ),
    "Infinity as Python writes it": Bytes(
        of=lambda content: content.replace(b'"logprob": -', b'"logprob": -Infinity, "x": -')
    ),
    "NaN as Python writes it": Bytes(of=lambda content: content.replace(b'"logprob": -', b'"logprob": NaN, "x": -')),
}


def _shifted(by: int) -> Fault:
    def shift(answer: dict[str, Any]) -> None:
        found = positions(answer)
        found[1:] = np.roll(np.array(found[1:], dtype=object), by).tolist()

    return shift


def _every(change: Callable[[dict[str, Any]], object]) -> Fault:
    def fault(answer: dict[str, Any]) -> None:
        for place in ROW.scored:
            change(entry(answer, place))

    return fault


def _set(value: float) -> Fault:
    return lambda answer: entry(answer)[next(iter(entry(answer)))].update(logprob=value)


def _tempered(entries: dict[str, Any]) -> None:
    for value in entries.values():
        value["logprob"] /= 2


def _renamed_id(answer: dict[str, Any]) -> None:
    entries = entry(answer)
    other = next(name for name in entries if name != str(ROW.ids[3]))
    entries[str(W + 5)] = entries.pop(other)


def _drop_last(entries: dict[str, Any]) -> None:
    del entries[max(entries, key=lambda id_: entries[id_]["rank"] if id_ not in map(str, ROW.ids) else 0)]


WRONG: dict[str, Fault | Bytes] = {
    "no prompt_logprobs": lambda answer: answer["choices"][0].pop("prompt_logprobs"),
    "prompt_logprobs is null": lambda answer: answer["choices"][0].update(prompt_logprobs=None),
    "shifted to the right": _shifted(1),
    "shifted to the left": _shifted(-1),
    "one position more": lambda answer: positions(answer).append(entry(answer)),
    "one position less": lambda answer: positions(answer).pop(),
    "a BOS token added": lambda answer: answer["usage"].update(prompt_tokens=8),
    "null at a scored position": lambda answer: positions(answer).__setitem__(3, None),
    "k - 1 entries": _every(_drop_last),
    "an id beyond the vocabulary": _renamed_id,
    "a negative id": lambda answer: entry(answer).update({"-1": entry(answer).popitem()[1]}),
    "-9999 for minus infinity": _set(-9999.0),
    "a positive log-probability": _set(0.7),
    "null for a log-probability": lambda answer: entry(answer)[str(ROW.ids[3])].update(logprob=None),
    "a text as key": lambda answer: entry(answer).update({"a": entry(answer).popitem()[1]}),
    "mass above one": _every(lambda entries: [value.update(logprob=-0.5) for value in entries.values()]),
    "probabilities in place of their logarithms": _every(
        lambda entries: [value.update(logprob=float(np.exp(value["logprob"]))) for value in entries.values()]
    ),
    "a number beyond float64": Bytes(
        of=lambda content: content.replace(b'"logprob": -', b'"logprob": -1e999, "x": -', 1)
    ),
    "numbers as text": _every(lambda entries: [one.update(logprob=str(one["logprob"])) for one in entries.values()]),
    "ranks that contradict": _every(lambda entries: [one.update(rank=99) for one in entries.values()]),
    "the answer to another row": lambda answer: Instead(_of_another_row(answer)),
    "an id twice": Bytes(of=lambda content: _id_twice(content)),
    "no choice": lambda answer: answer.update(choices=[]),
    "two choices": lambda answer: answer["choices"].append(answer["choices"][0]),
    "a list": lambda answer: Instead([answer]),
    "an error with status 200": lambda answer: Instead({"error": {"message": "overloaded"}}),
}


def _of_another_row(answer: dict[str, Any]) -> dict[str, Any]:
    """Of a proxy that stores answers under the wrong key: the rows differ before the scored tokens."""
    request = answer["request"]
    first, _, *others = request["prompt"]
    return vllm_answer(request | {"prompt": [first, 11, *others]})


def _id_twice(content: bytes) -> bytes:
    """JSON can have a key twice; a parser keeps the last."""
    answer = json.loads(content)
    names = [name for name in entry(answer) if name != str(ROW.ids[3])]
    text = json.dumps(entry(answer))
    return content.replace(text.encode(), text.replace(f'"{names[1]}"', f'"{names[0]}"').encode())


FATAL: dict[str, Fault | Status | Bytes] = {
    "401": Status(401, b'{"error": "no"}'),
    "403": Status(403, b'{"error": "no"}'),
    "404, another model": Status(404, b'{"error": "no such model"}'),
    "405": Status(405),
    "a redirect": Status(307, b"", {"location": "http://127.0.0.1:9/"}),
    "a Retry-After of a day": Status(429, headers={"retry-after": "86400"}),
    "another model answers": lambda answer: answer.update(model="another"),
    "another build of the engine answers": lambda answer: answer.update(system_fingerprint="another"),
    "an answer of a megabyte": Bytes(of=lambda content: content + b" " * 2**20),
}
REFUSED: dict[str, Status] = {"400": Status(400), "413": Status(413), "422": Status(422)}

MISBEHAVIOURS: dict[str, tuple[Fault | Status | Bytes, Outcome]] = {
    **{name: (fault, "again") for name, fault in TRIED_AGAIN.items()},
    **{name: (fault, "row") for name, fault in (WRONG | REFUSED).items()},
    **{name: (fault, "run") for name, fault in FATAL.items()},
}
