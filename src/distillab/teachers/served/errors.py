"""Why an answer of a server is not used.

TeacherError
├── ServerError     the server cannot be used at all: the run stops
└── RowFailed       one request failed for good: its row is counted as failed
    ├── RefusedRequest  the server will never answer it, as one that is too long
    ├── CutAnswer   the answer is not whole JSON; it is asked for again
    └── WrongAnswer the answer is whole, and is not what was asked for; asked again it would cost again
"""

from __future__ import annotations

from distillab.errors import TeacherError


class ServerError(TeacherError):
    """The server cannot be used."""


class RowFailed(TeacherError):
    """A row has no usable answer."""


class RefusedRequest(RowFailed):
    """A request that the server refuses."""


class CutAnswer(RowFailed):
    """An answer that is not whole JSON."""


class WrongAnswer(RowFailed):
    """An answer that is not what was asked for."""
