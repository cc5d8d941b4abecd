"""The exceptions of distillab, and the form of their messages.

    DistillabError
    ├── ConfigError          a recipe or an option is wrong
    ├── ShapeError           the shapes of two tensors do not match
    ├── TokenizerMismatch    teacher and student tokens do not mean the same
    ├── DataError            a file, a row or an encoding is unusable
    ├── TeacherError         the teacher cannot be loaded or cannot provide what the method needs
    ├── CacheError           stored teacher outputs
    │   ├── CacheCorrupt     the bytes are damaged or missing
    │   └── CacheMismatch    the bytes are sound, but belong to something else
    ├── StorageError         the disk is full, or a store cannot be used
    ├── ClusterError         the nodes of a cluster cannot do the work
    ├── NumericsError        a loss or a gradient is not finite
    ├── FaultFound           the doctor found an error in a training that it watches
    └── ProcessLost          another process of the run has ended

A message has up to four parts: the rule that is broken, where it happened, what was found, and how to fix it. They are
printed as `where:`, `found:` and `fix:`, as in the doctor's findings, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from distillab.redaction import redacted


class DistillabError(Exception):
    """Base class: a broken rule, with its facts and its fix.

    Args:
        rule: the rule that is broken, one sentence.
        facts: what was found, one line a fact; if teacher and student differ, one line each.
        where: the file, key, row or step concerned.
        fix: what to write or do instead.
    """

    def __init__(
        self, rule: str, *, facts: Sequence[str] = (), where: str | None = None, fix: str | None = None
    ) -> None:
        # a path or an address can hold a secret, and messages go to terminals, logs and findings
        self.rule = redacted(rule)
        self.facts = tuple(map(redacted, facts))
        self.where = None if where is None else redacted(where)
        self.fix = None if fix is None else redacted(fix)
        super().__init__(self.rule)

    def __str__(self) -> str:
        lines = [self.rule]
        if self.where:
            lines.append(f"  where: {self.where}")
        lines.extend(f"  found: {fact}" for fact in self.facts)
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class ConfigError(DistillabError):
    """A recipe or an option is wrong."""


class ShapeError(DistillabError):
    """The shapes of two tensors do not match."""


class TokenizerMismatch(DistillabError):
    """Teacher and student tokens do not mean the same, but the method compares them."""


class DataError(DistillabError):
    """A file, a row or an encoding is unusable."""


class TeacherError(DistillabError):
    """The teacher cannot be loaded, or cannot provide what the method needs."""


class CacheError(DistillabError):
    """Stored teacher outputs cannot be used."""


class CacheCorrupt(CacheError):
    """Stored bytes are damaged or missing."""


class CacheMismatch(CacheError):
    """Stored bytes are sound, but belong to another teacher, data set or setting."""


class StorageError(DistillabError):
    """The disk is full, or a store cannot be read or written."""


class ClusterError(DistillabError):
    """The nodes of a cluster cannot do the work: none is there, they share no folder, or a job was lost too often."""


class NumericsError(DistillabError):
    """A loss or a gradient is not finite."""


class FaultFound(DistillabError):
    """The doctor found an error in a training that it watches."""


class ProcessLost(DistillabError):
    """Another process of the run has ended."""


def near_names(name: str, known: Iterable[str]) -> str:
    """Suggest the names nearest to a mistyped one, or list all known names.

    >>> near_names("loggits", ["logits", "sft"])
    'did you mean "logits"?'
    >>> near_names("zzz", ["sft", "logits"])
    'known: logits, sft'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(f'"{n}"' for n in near) + "?"
    return "known: " + ", ".join(known)
