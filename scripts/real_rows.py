"""Write the rows of `recipes/real-smollm2.yaml`: instructions that ship in the package, or those of the materials.

    python scripts/real_rows.py FILE               660 instructions that distillab draws itself
    python scripts/real_rows.py FILE --materials   Dolly, GSM8K and self-instruct, in the folder DISTILLAB_MATERIALS

A row has the columns `prompt` and `answer`. The same call writes the same bytes.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from distillab.config.data import SourceConfig
from distillab.data.row_examples import to_examples
from distillab.data.sources import read_rows
from distillab.demo.instructions import draw_instructions
from distillab.errors import ConfigError, DistillabError
from distillab.files import write_json_lines

ROWS = 660
MATERIALS = (("dolly/dev.jsonl", None), ("gsm8k/train.jsonl", 1000), ("self-instruct/seed_tasks.jsonl", None))
"""Files below `text/`, and how many of their rows are taken; None: all."""


def shipped_rows() -> list[dict[str, str]]:
    """Return the rows that the package draws."""
    return [{"prompt": row.prompt, "answer": row.output} for row in draw_instructions(ROWS, seed=0)]


def rows_of_materials(folder: Path) -> list[dict[str, str]]:
    """Return the rows of all files of the materials, one for each answer, in a seeded order: a part has rows of all.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    sources = [SourceConfig(path=str(folder / "text" / name), limit=limit) for name, limit in MATERIALS]
    examples = [
        example for source in sources for example in to_examples(read_rows(source), columns=None, prompt_share=0.25)
    ]
    random.Random(0).shuffle(examples)
    return [{"prompt": example.prompt, "answer": example.answer} for example in examples if example.answer]


def main(arguments: list[str]) -> None:
    """Write the file, and print how many rows of what it has."""
    file, *options = arguments or [""]
    if not file or options not in ([], ["--materials"]):
        raise ConfigError("A file is missing, or there is an unknown option.", fix=(__doc__ or "").split("\n\n")[1])
    folder = os.environ.get("DISTILLAB_MATERIALS")
    if options and not folder:
        raise ConfigError("--materials reads the folder DISTILLAB_MATERIALS, which is not set.")
    rows = rows_of_materials(Path(folder)) if options and folder else shipped_rows()
    write_json_lines(Path(file), rows)
    what = f"Dolly, GSM8K and self-instruct ({folder})" if options else "instructions that distillab draws"
    print(f"{file}: {len(rows)} rows, {what}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DistillabError as error:
        sys.exit(str(error))
