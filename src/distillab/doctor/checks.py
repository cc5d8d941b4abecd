"""A check: what it yields, the runner that makes its record, and the pages that have the text of its findings.

A page, `doctor/findings/ID.md`, is the only text of what was found, what it means and what to do. A heading `## error
or warning, CASE: TITLE` begins the text of one case, in this order: the explanation, then a list of what to do. A case
that lacks one of them has that of the next case. `{name}` is a word that the check supplies. The other sections are for
readers alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, cast, get_args

from distillab.errors import ConfigError, near_names
from distillab.records import CheckResult, Finding, Severity

_Given = ParamSpec("_Given")
FOLDER = Path(__file__).parent / "findings"
_SEVERITY = "|".join(get_args(Severity))
_CASE = re.compile(rf"^## ((?:{_SEVERITY})(?:(?:, | or )(?:{_SEVERITY}))*)(?:, ([^:]+))?: (.+)$")
_WORD = re.compile(r"\{(\w+)\}")


class Scope(str):
    """What is checked, with numbers; the last one that a check yields counts."""


class Skipped(Exception):
    """Raised anywhere in a check: why the rest of it is not done."""


# None: no finding. A check without a scope has nothing to examine.
Checked = Iterator[Scope | Finding | None]


def check(name: str) -> Callable[[Callable[_Given, Checked]], Callable[_Given, CheckResult]]:
    """Make a check of a generator: to call it is to run it, and to get its record."""

    def named(examine: Callable[_Given, Checked]) -> Callable[_Given, CheckResult]:
        @wraps(examine)
        def run(*given: _Given.args, **named: _Given.kwargs) -> CheckResult:
            return recorded(name, examine(*given, **named))

        return run

    return named


def recorded(name: str, found: Checked) -> CheckResult:
    """Return the record of a check: of what it yields until it ends, or skips the rest."""
    scope, skipped = Scope(), None
    findings: list[Finding] = []
    try:
        for one in found:
            if isinstance(one, Scope):
                scope = one
            elif one is not None:
                findings.append(one)
    except Skipped as why:
        skipped = str(why)
    return CheckResult(check=name, scope=scope, skipped=skipped, findings=tuple(findings))


@dataclass(frozen=True)
class Case:
    """One case of a finding: the severities that it can have, and its text with places for words."""

    severities: tuple[Severity, ...]
    title: str
    explanation: str
    fix: tuple[str, ...]

    @property
    def words(self) -> frozenset[str]:
        """The names of the words that the text needs."""
        return frozenset(_WORD.findall(" ".join((self.title, self.explanation, *self.fix))))


def from_page(
    name: str,
    *evidence: str | None,
    case: str = "",
    example: Iterable[str] = (),
    severity: Severity | None = None,
    fix: Iterable[str] = (),
    words: Mapping[str, object] | None = None,
) -> Finding:
    """Return the finding with the text of its page.

    Args:
        name: the id.
        evidence: the facts, one a line, with figures and units; None: no line.
        case: which case of the page, where it has several.
        example: a piece of the examined data, line by line.
        severity: one of those of the page; None: the page names one alone.
        fix: what to do, where the check computes it; before the list of the page.
        words: the words of the text.
    Raises:
        KeyError: the page has no such case, or a word is missing.
        ValueError: the page does not name this severity.
    """
    text = cases(name)[case]
    if severity is None:
        (severity,) = text.severities
    elif severity not in text.severities:
        raise ValueError(f"{name}: severity {severity} is not on the page: {', '.join(text.severities)}")
    given = words or {}

    def filled(line: str) -> str:
        return _WORD.sub(lambda match: str(given[match[1]]), line)

    return Finding(
        id=name,
        severity=severity,
        title=filled(text.title),
        evidence=tuple(fact for fact in evidence if fact is not None),
        example=tuple(example),
        explanation=filled(text.explanation),
        fix=(*fix, *map(filled, text.fix)),
    )


@cache
def cases(name: str) -> Mapping[str, Case]:
    """Return the cases of a finding by name; "" is the name of the only one."""
    read: dict[str, Case] = {}
    explanation = ""
    fix: tuple[str, ...] = ()
    for part in reversed(re.split(r"^(?=## )", page(name), flags=re.MULTILINE)):
        heading, _, body = part.partition("\n")
        match = _CASE.match(heading)
        if match is not None:
            text, *steps = map(_line, re.split(r"^\* ", body, flags=re.MULTILINE))
            explanation, fix = text or explanation, tuple(steps) or fix
            severities = tuple(cast(Severity, one) for one in re.findall(_SEVERITY, match[1]))
            read[match[2] or ""] = Case(severities, match[3], explanation, fix)
    return read


def page(name: str) -> str:
    """Return the whole page of a finding, as Markdown.

    Raises:
        ConfigError: no finding has this id.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.md"))
    if name not in known:
        raise ConfigError("No finding has this id.", facts=[f"got {name!r}"], fix=near_names(name, known))
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def _line(text: str) -> str:
    return " ".join(text.split())
