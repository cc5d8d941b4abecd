"""Writes the table "verdict x method" into docs/methods/README.md, from the code that admits and refuses.

    python scripts/verdict_table.py [--check] [PAGE]

With --check nothing is written; exit code 1 where the page holds another table than the code would give.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from distillab.config.methods import METHODS, Method
from distillab.pairing.admission import equals_with_same_tokens, method_status, shared_vocabulary_method
from distillab.records import Verdict

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods" / "README.md"
BEGIN = "<!-- from here: python scripts/verdict_table.py -->"
END = "<!-- to here -->"


def table() -> str:
    """One row a method, one column a verdict."""
    verdicts: tuple[Verdict, ...] = get_args(Verdict)
    head = ["method", "access", *(f"`{verdict}`" for verdict in verdicts)]
    rows = [
        [f"`{name}`", method.access, *(_cell(verdict, method) for verdict in verdicts)]
        for name, method in METHODS.items()
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _cell(verdict: Verdict, method: Method) -> str:
    found = method_status(verdict, method)
    if found != "superseded":
        return found
    equals = verdict != "extended" and equals_with_same_tokens(method)
    return f"valid, {'equals' if equals else 'but prefer'} `{shared_vocabulary_method(method)}`"


def main(arguments: list[str]) -> int:
    """Write or compare; 0: the page holds the table, 1: it held another one, 2: it has no place for one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", nargs="?", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing")
    chosen = parser.parse_args(arguments)
    page = chosen.page.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"{chosen.page}: put {BEGIN} and {END} on lines of their own", file=sys.stderr)
        return 2
    wanted = f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"
    if wanted == page:
        return 0
    if chosen.check:
        print(f"{chosen.page}: not what the code gives; run python scripts/verdict_table.py", file=sys.stderr)
        return 1
    chosen.page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
