"""Hooks of the documentation site (mkdocs.yml): what the pages in docs/ link to outside of it becomes a page too.

A file or folder PATH of the repository that a page links to is the page `repository/PATH` of the site: a Markdown file
as it is, a notebook as its cells, another file as its text, a folder as the list of its files. What those pages link to
follows. So the links in the repository are also those of the site.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

sys.path.insert(0, str(Path(__file__).parent))
from check_links import FENCE, LINK, slug

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS, COPIED = "docs", "repository"
_LANGUAGE = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sbatch": "bash"}
_NOT_SEARCHED = "---\nsearch: {exclude: true}\n---\n"
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*:")
_ITEM = re.compile(r"^\s*([*+-]|\d+\.) ")


def site_path(path: str) -> str:
    """Return the source path on the site of a path of the repository.

    >>> site_path("docs/methods/README.md"), site_path("recipes"), site_path("src/a.py")
    ('methods/README.md', 'repository/recipes.md', 'repository/src/a.py.md')
    """
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    return f"{COPIED}/{path}" if path.endswith(".md") else f"{COPIED}/{path}.md"


def targets(text: str, page: str) -> Iterator[tuple[str, str]]:
    """Yield each link of a page inside of the repository as it is written, and the path that it leads to.

    Args:
        text: the page's Markdown.
        page: its path in the repository.
    """
    for block, prose in _blocks(text):
        for written in LINK.findall(block) if prose else ():
            file = unquote(written).partition("#")[0]
            if file and not _ADDRESS.match(written):
                yield written, os.path.normpath(PurePosixPath(page).parent / file)


def for_site(text: str, page: str) -> str:
    """Return the Markdown of a page for the site: links lead to the pages of files, lists follow a blank line."""
    here = PurePosixPath(site_path(page)).parent

    def relinked(match: re.Match[str]) -> str:
        for written, path in targets(match[0], page):
            _, mark, anchor = written.partition("#")
            return match[0].replace(f"({written}", f"({quote(os.path.relpath(site_path(path), here))}{mark}{anchor}")
        return match[0]

    return "".join(LINK.sub(relinked, _spaced(block)) if prose else block for block, prose in _blocks(text))


def content(path: Path) -> str:
    """Return a file or a folder of the repository as Markdown."""
    if path.is_dir():
        names = sorted(item.name for item in path.iterdir() if not item.name.startswith((".", "_")))
        return f"# {path.name}\n\n" + "".join(f"* [{name}]({path.name}/{name})\n" for name in names)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return f"# {path.name}\n\n" + "\n\n".join(_cell(cell) for cell in json.loads(text)["cells"])
    head = _NOT_SEARCHED if path.suffix == ".json" else ""
    return f"{head}# {path.name}\n\n````{_LANGUAGE.get(path.suffix, 'text')}\n{text.rstrip()}\n````\n"


def copied_pages(root: Path) -> dict[str, str]:
    """Return the paths outside of docs/ that its pages link to, and those that these link to, with their Markdown."""
    found: dict[str, str] = {}
    waiting = [str(page.relative_to(root)) for page in sorted((root / DOCS).rglob("*.md"))]
    texts: dict[str, str] = {}
    while waiting:
        page = waiting.pop()
        texts[page] = content(root / page)
        if not page.startswith(f"{DOCS}/"):
            found[page] = texts[page]
        # a list of a folder links from beside the folder
        for _, path in targets(texts[page], page):
            picture = path.startswith(f"{DOCS}/") and not path.endswith(".md")  # MkDocs has it already
            if (root / path).exists() and not picture and path not in [*texts, *waiting, DOCS]:
                waiting.append(path)
    return found


def on_config(config: MkDocsConfig) -> None:
    """Give headings the anchors of code hosts, which the links in the repository use."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = _slugify


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of what is linked outside of docs/."""
    from mkdocs.structure.files import File

    for path, text in copied_pages(ROOT).items():
        files.append(File.generated(config, site_path(path), content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lead the links of a page to the pages of the site."""
    source = page.file.src_uri
    path = source.removeprefix(f"{COPIED}/") if source.startswith(f"{COPIED}/") else f"{DOCS}/{source}"
    if not (ROOT / path).exists():
        path = path.removesuffix(".md")
    return for_site(markdown, path)


def _slugify(text: str, separator: str) -> str:
    return slug(text)


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    return source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the text in blocks, and whether a block is outside of fenced code."""
    fence, block = "", ""
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        if mark and not fence:
            yield block, True
            fence, block = mark[1], line
        elif mark and mark[1].startswith(fence):
            yield block + line, False
            fence, block = "", ""
        else:
            block += line
    yield block, not fence


def _spaced(block: str) -> str:
    """Return the block as Python-Markdown needs lists: after a blank line, and four spaces deep inside of another."""
    lines: list[str] = []
    in_list = False
    for line in block.splitlines(keepends=True):
        item = _ITEM.match(line) is not None
        if item and not in_list and lines and lines[-1].strip():
            lines.append("\n")
        in_list = item or (in_list and (not line.strip() or line.startswith(" ") or bool(lines[-1].strip())))
        lines.append(re.sub(r"^ {2,3}(?=\S)", "    ", line) if item else line)
    return "".join(lines)
