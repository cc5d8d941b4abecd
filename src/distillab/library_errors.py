"""The one border at which what a library raises becomes an error of distillab.

Over a damaged file, or a config that makes no sense, safetensors, tokenizers, transformers, datasets and pyarrow raise
errors of any class: OSError, KeyError, ZeroDivisionError, classes of Rust that derive from Exception alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distillab.errors import ConfigError, DistillabError
from distillab.files import disk_full_error, is_disk_full

_LONGEST_FACT = 300


@contextmanager
def library_errors(error: type[DistillabError], rule: str, *, where: str, fix: str | None = None) -> Iterator[None]:
    """Turn whatever a library raises while it reads files or settings into one error; nothing else stands inside.

    Args:
        error: the class of what is raised.
        rule: what could not be done.
        where: the folder, file or hub id.
        fix: the way out, where there is one that holds for every cause.
    Raises:
        DistillabError: of the class `error`; ConfigError where code of the folder would have to run; StorageError
            where the disk is full.
    """
    try:
        yield
    except DistillabError:
        raise
    except Exception as problem:  # the libraries' border: they raise nothing narrower, see the module's docstring
        if is_disk_full(problem):
            raise disk_full_error(problem, where=where) from problem
        if "trust_remote_code" in str(problem):
            raise _needs_code(where) from problem
        raise error(rule, where=where, facts=[first_line(problem)], fix=fix) from problem


def first_line(problem: BaseException) -> str:
    """The class of an error and the first line of what it says.

    >>> first_line(KeyError("vocab"))
    "KeyError: 'vocab'"
    """
    lines = str(problem).strip().splitlines() or ["it says no more"]
    return f"{type(problem).__name__}: {lines[0]}"[:_LONGEST_FACT]


def _needs_code(source: str) -> ConfigError:
    return ConfigError(
        "It needs Python code that its folder brings, and distillab runs none but its own.",
        where=source,
        facts=[
            "auto_map in config.json or tokenizer_config.json names code, and transformers knows no class of its own"
        ],
        fix="use a model whose model_type transformers supports; or convert it where you trust the code, and use that",
    )
