"""What a check yields, and the one runner that makes its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec

from distillab.records import CheckResult, Finding

_Given = ParamSpec("_Given")


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
