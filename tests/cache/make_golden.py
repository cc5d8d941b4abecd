"""Makes the golden cache of this format version: python -m tests.cache.make_golden. Run it for a new version only.

What is there is never made anew: the files of a version are what every later reader must read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.reader import CacheReader
from tests.cache.cache_samples import ALL, build, numbers, sample_identity, sample_rows

GOLDEN = Path(__file__).parent / "golden"
NUMBERS = "numbers.json"


def make(folder: Path) -> None:
    """Five rows of every kind, two a shard."""
    rows = sample_rows(5)
    build(folder, rows, sample_identity(rows))


def content(folder: Path) -> list[dict[str, Any]]:
    """What a reader finds, as JSON."""
    rows = CacheReader(folder).read(range(5), ALL)
    return [
        {
            "key": row.key,
            "input_ids": row.input_ids.tolist(),
            "answer_mask": row.answer_mask.tolist(),
            **{kind: numbers(section) for kind, section in row.sections.items()},
        }
        for row in rows
    ]


if __name__ == "__main__":
    place = GOLDEN / f"v{FORMAT_VERSION}"
    if place.exists():
        raise SystemExit(f"{place} is there already: a version's files never change")
    make(place / "cache")
    lines = [json.dumps(row, ensure_ascii=False) for row in content(place / "cache")]
    (place / NUMBERS).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
