"""A reader of caches written from the page FORMAT.md alone: it shares no code with distillab."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import xxhash


def hash_text(data: bytes) -> str:
    return f"{xxhash.xxh3_64(data).intdigest():016x}"


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def read_cache(folder: Path) -> list[dict[str, Any]]:
    identity = json.loads((folder / "identity.json").read_text("utf-8"))
    assert identity["format_version"] == 1
    fingerprint = hashlib.sha256(compact(identity)).hexdigest()
    entries: dict[int, Any] = {}
    for journal in (folder / "journals").iterdir():
        *lines, rest = journal.read_bytes().split(b"\n")
        assert rest == b""
        for line in lines:
            entry = json.loads(line)
            sealed = {name: value for name, value in entry.items() if name != "entry_xxh3"}
            assert entry["entry_xxh3"] == hash_text(compact(sealed))
            assert entry["fingerprint"] == fingerprint
            entries[entry["shard"]] = entry
    assert len(entries) == math.ceil(identity["rows"] / identity["rows_per_shard"])
    rows: list[dict[str, Any]] = []
    digests = b""
    for number in sorted(entries):
        some, more = read_shard(folder, entries[number], identity, fingerprint)
        rows, digests = rows + some, digests + more
    assert hashlib.sha256(digests).hexdigest() == identity["rows_sha256"]
    return rows


def arrays(data: bytes) -> tuple[dict[str, str], dict[str, tuple[Any, bytes, int]]]:
    """Metadata; name -> (facts, bytes, where they begin)."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    found, at = {}, 8 + length
    assert at % 8 == 0
    for name, facts in header.items():
        begin, end = (8 + length + offset for offset in facts["data_offsets"])
        assert begin == at
        at = end
        found[name] = (facts, data[begin:end], begin)
    assert at == len(data)
    return metadata, found


def read_shard(folder: Path, entry: Any, identity: Any, fingerprint: str) -> tuple[list[dict[str, Any]], bytes]:
    data = (folder / entry["file"]).read_bytes()
    assert len(data) == entry["bytes"]
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    assert hash_text(data[: entry["index_bytes"]]) == entry["index_xxh3"]
    metadata, found = arrays(data)
    assert metadata == {
        "format": "distillab-cache",
        "format_version": "1",
        "fingerprint": fingerprint,
        "shard": str(entry["shard"]),
    }
    sections = ["tokens"] + [layout["kind"] for layout in identity["layouts"]]
    wanted = ["lengths"] + [f"{section}.{part}" for section in sections for part in ("ends", "xxh3")]
    assert list(found) == wanted + ["keys.ends", "digests", "keys"] + [f"{section}.bytes" for section in sections]
    assert found["tokens.bytes"][2] == entry["index_bytes"]

    def integers(name: str, code: str) -> list[int]:
        return list(struct.unpack(f"<{len(found[name][1]) // 8}{code}", found[name][1]))

    lengths, ends = integers("lengths", "q"), [0, *integers("keys.ends", "q")]
    rows: list[dict[str, Any]] = []
    for row in range(entry["rows"]):
        tokens, scored = lengths[2 * row : 2 * row + 2]
        made: dict[str, Any] = {"key": found["keys"][1][ends[row] : ends[row + 1]].decode()}
        for layout in [identity["tokens"], *identity["layouts"]]:
            kind = layout["kind"]
            stops = [0, *integers(f"{kind}.ends", "q")]
            record = found[f"{kind}.bytes"][1][stops[row] : stops[row + 1]]
            assert xxhash.xxh3_64(record).intdigest() == integers(f"{kind}.xxh3", "Q")[row]
            value = READ[kind](Streams(record), layout, tokens, scored)
            made |= value if kind == "tokens" else {kind: value}
        assert sum(made["answer_mask"]) == scored
        digest = hashlib.blake2b(struct.pack("<q", tokens), digest_size=16)
        digest.update(struct.pack(f"<{tokens}i", *made["input_ids"]))
        mask = sum(1 << place for place, marked in enumerate(made["answer_mask"]) if marked)
        digest.update(mask.to_bytes(math.ceil(tokens / 8), "little"))
        assert digest.digest() == found["digests"][1][16 * row : 16 * row + 16]
        rows.append(made)
    return rows, found["digests"][1]


class Streams:
    """The streams of one record, one behind the other."""

    def __init__(self, record: bytes) -> None:
        self.record, self.at = record, 0

    def take(self, size: int) -> bytes:
        part = self.record[self.at : self.at + size]
        assert len(part) == size
        self.at += size
        return part

    def packed(self, count: int, bits: int) -> list[int]:
        whole = int.from_bytes(self.take(math.ceil(count / 8) * bits), "little")
        assert whole >> (count * bits) == 0
        return [whole >> (place * bits) & ((1 << bits) - 1) for place in range(count)]

    def numbers(self, count: int, code: str) -> list[Any]:
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))

    def end(self) -> None:
        assert self.at == len(self.record)


def tokens(streams: Streams, layout: Any, tokens: int, scored: int) -> dict[str, Any]:
    ids, mask = streams.packed(tokens, layout["id_bits"]), streams.packed(tokens, 1)
    streams.end()
    return {"input_ids": ids, "answer_mask": [bit == 1 for bit in mask]}


def top_k(streams: Streams, layout: Any, tokens: int, scored: int) -> dict[str, Any]:
    k = layout["k"]
    tail, actual = streams.numbers(scored, "e"), streams.numbers(scored, "e")
    codes = streams.numbers(scored * k, "B")
    ids = streams.packed(scored * k, layout["id_bits"])
    streams.end()
    assert layout["values"] == "companded8"
    logp = [-math.inf if u == 255 else -1.5 * (math.exp(u * math.log(17) / 254) - 1) for u in codes]
    out: dict[str, Any] = {"ids": [], "logp": [], "tail_logmass": [], "actual_logp": actual}
    for n in range(scored):
        kept = logp[n * k : (n + 1) * k]
        shift = math.log(sum(map(math.exp, kept)) + math.exp(tail[n]))
        out["ids"].append(ids[n * k : (n + 1) * k])
        out["logp"].append([value - shift for value in kept])
        out["tail_logmass"].append(tail[n] - shift)
    return out


def sampled(streams: Streams, layout: Any, tokens: int, scored: int) -> dict[str, Any]:
    own = streams.numbers(scored, "e")
    distinct = [less + 1 for less in streams.packed(scored, layout["count_bits"])]
    ids = streams.packed(sum(distinct), layout["id_bits"])
    others = iter(streams.packed(sum(distinct) - scored, layout["count_bits"]))
    streams.end()
    counts: list[int] = []
    for many in distinct:
        first = [next(others) + 1 for _ in range(many - 1)]
        counts += [*first, layout["draws"] - sum(first)]
    return {"distinct": distinct, "ids": ids, "counts": counts, "entropy_estimate": own}


def states(streams: Streams, layout: Any, tokens: int, scored: int) -> dict[str, Any]:
    positions = {"answer": scored, "all": tokens}[layout["positions"]]
    out = {}
    for array in layout["arrays"]:
        width, store = array["width"], array["store"]
        if store == "int8":
            scales = streams.numbers(positions, "e")
            codes = streams.numbers(positions * width, "b")
            flat = [scales[place // width] * code for place, code in enumerate(codes)]
        else:
            flat = streams.numbers(positions * width, {"float32": "f", "float16": "e", "bfloat16": "H"}[store])
        out[array["name"]] = [flat[place * width : (place + 1) * width] for place in range(positions)]
    streams.end()
    return out


def text(streams: Streams, layout: Any, tokens: int, scored: int) -> dict[str, Any]:
    finish = {b"s": "stop", b"l": "length"}[streams.record[:1]]
    return {"answer": streams.record[1:].decode(), "finish": finish}


READ = {
    "tokens": tokens,
    "top_k": top_k,
    "sampled": sampled,
    "full": states,
    "hidden_states": states,
    "attention_inputs": states,
    "text": text,
}
