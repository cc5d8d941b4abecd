"""Write the report of a study from its records: report.html and report.md, each atomically."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from distillab.files import write_text
from distillab.records import StudyResults
from distillab.report.page import page_of
from distillab.report.safety import Markdown, markdown_block, markdown_inline, unbroken, visible


def write_report(results: StudyResults, folder: Path) -> tuple[Path, Path]:
    """Write `report.md` and `report.html` from the results alone; equal results give equal bytes.

    Args:
        results: the study.
        folder: where the two files go; created if it is missing.
    Returns:
        the paths of report.md and report.html.
    Raises:
        DataError: the parts of the results contradict each other.
        OSError: the folder cannot be written.
    """
    page = page_of(results)
    texts = {
        "report.md": render("report.md.j2", page),
        "report.html": render("report.html.j2", page),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / "report.md", folder / "report.html"


def render(name: str, page: object) -> str:
    """Render one template; values are escaped for the template's kind of file."""
    if name.endswith(".html.j2"):
        return _template(name).render(page=page, style=Markup(_style()))
    return _template(name).render(page=page)


@cache
def _template(name: str) -> Template:
    is_html = name.endswith(".html.j2")
    return _environment(_finalize_html if is_html else _finalize_markdown, autoescape=is_html).get_template(name)


def _environment(finalize: Callable[[Any], Any], *, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("distillab.report"),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["block"] = markdown_block
    environment.filters["markdown"] = Markdown
    return environment


def _finalize_html(value: Any) -> Any:
    """Make every printed value visible, and keep numbers with their units, before jinja2 escapes it."""
    if value is None:
        raise TypeError("a template prints None")
    return unbroken(visible(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _finalize_markdown(value: Any) -> Any:
    """Escape every printed value that is not Markdown already."""
    if value is None:
        raise TypeError("a template prints None")
    return markdown_inline(value) if isinstance(value, str) and not isinstance(value, Markdown) else value


def _breakable(name: str) -> Markup:
    """Return a name that may be broken after an underscore rather than anywhere."""
    return Markup(escape(visible(name)).replace("_", Markup("_<wbr>")))


def _style() -> str:
    return resources.files("distillab.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
