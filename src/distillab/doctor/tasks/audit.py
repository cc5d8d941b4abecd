"""`audit_tasks`: what the results of lm-evaluation-harness show, and whether two of them can be compared."""

from __future__ import annotations

from pathlib import Path

from distillab.doctor.causes import with_causes
from distillab.doctor.tasks.checks import check_compared, check_task, check_template
from distillab.doctor.tasks.files import read_results
from distillab.records import Investigation


def audit_tasks(place: str | Path, other: str | Path | None = None) -> Investigation:
    """Examine results of lm-evaluation-harness by their files; the package is not needed.

    Args:
        place: results_DATE.json with the samples beside it, or a folder with them, of which the newest is read.
        other: a second one, to be compared with the first.
    Raises:
        DataError: there are no such files, or they are damaged.
    """
    given = [read_results(Path(one)) for one in (place, other) if one is not None]
    checks = [check for one in given for check in (check_template(one), *map(check_task, one.tasks.values()))]
    if len(given) > 1:
        checks.append(check_compared(*given))
    return Investigation(subject="; ".join(str(one.path) for one in given), checks=with_causes(checks))
