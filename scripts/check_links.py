"""Checks the links of the documentation: files, anchors and the paths written in code marks. No network.

    python scripts/check_links.py [ROOT]

Prints one line a dead link, `file:line: what is wrong`; exit code 1 where there is any.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_CODE = re.compile(r"`([^`]+)`")
_ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:")
# A word in code marks is a path of this repository if it begins with one of its folders (not with `../`) …
_PATH = re.compile(r"^(?!\.\./)\.?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*/?$")
# … or with a folder of the package, as in the tour: `divergences/kl.py`.
_PACKAGE = Path("src/distillab")


def documents(root: Path) -> list[Path]:
    """The Markdown files that are checked."""
    top = [root / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    return [path for path in top if path.is_file()] + [
        *sorted((root / "docs").rglob("*.md")),
        *sorted((root / "src").rglob("*.md")),
    ]


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every line outside of fenced code."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            yield number, line


def slug(words: str) -> str:
    """The anchor of a heading, by the rule of common code hosts.

    >>> slug("2026-11-22: weights, and `more`")
    '2026-11-22-weights-and-more'
    """
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown page offers, by the rule of common code hosts.

    >>> sorted(anchors("# The `tour`, part 1\\n## Notes\\n## Notes"))
    ['notes', 'notes-1', 'the-tour-part-1']
    """
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for _, line in prose_lines(text):
        heading = _HEADING.match(line)
        if heading:
            anchor = slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2]))
            found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
            seen[anchor] += 1
    return found


def looks_like_path(word: str, root: Path) -> bool:
    """Whether a word in code marks is meant as a path of this repository."""
    if not _PATH.match(word) or "/" not in word:
        return False
    first = word.split("/")[0]
    return (root / first).is_dir() or (root / _PACKAGE / first).is_dir()


def problems(page: Path, root: Path) -> Iterator[str]:
    """One line for every dead link of a page."""
    name = page.relative_to(root)
    for number, line in prose_lines(page.read_text(encoding="utf-8")):
        for target in LINK.findall(_CODE.sub("", line)):
            problem = _link_problem(target, page, root)
            if problem:
                yield f"{name}:{number}: {problem}"
        for word in _CODE.findall(line):
            if looks_like_path(word, root) and not (root / word).exists() and not (root / _PACKAGE / word).exists():
                yield f"{name}:{number}: no such path in the repository: {word}"


def _link_problem(target: str, page: Path, root: Path) -> str | None:
    if _ELSEWHERE.match(target):
        return None
    file, _, anchor = unquote(target).partition("#")
    path = (page.parent / file).resolve() if file else page
    if not path.is_relative_to(root):
        return f"the link leaves the repository: {target}"
    if not path.exists():
        return f"no such file: {target}"
    if anchor and path.suffix == ".md" and anchor not in anchors(path.read_text(encoding="utf-8")):
        return f"no such heading: {target}"
    return None


def main(arguments: list[str]) -> int:
    """Check all pages; 0: every link is alive, 1: some are not, 2: there is nothing to check."""
    root = Path(arguments[0] if arguments else Path(__file__).parent.parent).resolve()
    pages = documents(root)
    if not pages:
        print(f"no README.md and no docs/ in {root}", file=sys.stderr)
        return 2
    dead = [problem for page in pages for problem in problems(page, root)]
    for problem in dead:
        print(problem)
    print(f"{len(pages)} pages, {len(dead)} dead links", file=sys.stderr)
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
