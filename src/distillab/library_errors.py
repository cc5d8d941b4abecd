"""Turn the errors of libraries into errors of distillab.

For a damaged file or a wrong config, safetensors, tokenizers, transformers, datasets and pyarrow raise errors of any
class: OSError, KeyError, ZeroDivisionError, Rust classes that derive from Exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distillab.errors import ConfigError, DistillabError
from distillab.files import disk_full_error, is_disk_full

_LONGEST_FACT = 300


@contextmanager
def library_errors(error: type[DistillabError], rule: str, *, where: str, fix: str | None = None) -> Iterator[None]:
    """Turn any error of a library call inside the block into one error; put only that call inside.

    Args:
        error: the class to raise.
        rule: what could not be done.
        where: the folder, file or hub id.
        fix: a fix that suits every cause, if there is one.
    Raises:
        DistillabError: of the class `error`; ConfigError if code of the folder would have to run; StorageError if the
            disk is full.
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
    """Return the class of an error and the first line of its message.

    >>> first_line(KeyError("vocab"))
    "KeyError: 'vocab'"
    """
    lines = str(problem).strip().splitlines() or ["no message"]
    return f"{type(problem).__name__}: {lines[0]}"[:_LONGEST_FACT]


def _needs_code(source: str) -> ConfigError:
    return ConfigError(
        "It needs Python code from its folder, which distillab never runs.",
        where=source,
        facts=[
            "auto_map in config.json or tokenizer_config.json names code, and transformers has no class for the model"
        ],
        fix="use a model whose model_type transformers supports, or convert this one to such a type",
    )
