"""`ServedWriter`: a source of answers behind a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from distillab.models.generation import Generated, GeneratedText
from distillab.records import ServerProbe
from distillab.teachers.protocol import Prompt, Sampling, TeacherIdentity
from distillab.teachers.served.client import Client
from distillab.teachers.served.cost import Projection
from distillab.teachers.served.dialects.dialect import AnsweringDialect
from distillab.teachers.served.errors import RefusedRequest, RowFailed, ServerError

_REFUSED_SHARE, _REFUSED_ALWAYS = 0.05, 2


class ServedWriter:
    """A teacher behind a server that answers prompts.

    Args:
        client: of the server. dialect: of its API.
        identity: with access "text". probe: what was found of the server.
    """

    def __init__(
        self, client: Client, dialect: AnsweringDialect, identity: TeacherIdentity, *, probe: ServerProbe | None = None
    ) -> None:
        self.identity, self.probe = identity, probe
        self._client, self._dialect = client, dialect
        self._projection: Projection | None = None
        self._asked = self._refused = 0

    def announce(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Print what answers will cost; after the first batch, what they will cost by it."""
        self._projection = Projection(self._client.account, "answers", sizes, self._client.cost)

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Generated | GeneratedText]:
        """Yield one answer a prompt, in their order; several are asked for at once. Stored ones are not asked for.

        Each has a seed of its own, and what a server makes of it is the server's: only stored answers stay the same.

        Raises:
            RowFailed: the server gave no usable answer.
            ServerError: it cannot be used, or refused more than 5 % of the prompts.
        """

        def answer(job: tuple[int, Prompt]) -> Generated | GeneratedText:
            place, prompt = job
            asked = self._dialect.answer_call(prompt, replace(sampling, seed=sampling.seed + place))
            return self._client.ask(asked.call, asked.read)

        before = self._client.account.paid
        for _, got in self._client.each(list(enumerate(prompts)), answer, failed_rows=1.0):
            self._asked += 1
            yield self._counted(got) if isinstance(got, RowFailed) else got
        if self._projection is not None:
            read = sum(len(prompt.ids) for prompt in prompts)
            self._projection.measured(len(prompts), read, before, self._client.account.paid)

    def _counted(self, failure: RowFailed) -> GeneratedText:
        if not isinstance(failure, RefusedRequest):
            raise failure
        self._refused += 1
        if self._refused > max(_REFUSED_ALWAYS, _REFUSED_SHARE * self._asked):
            raise ServerError(
                "The server refuses too many prompts.",
                where=self._client.server.url,
                facts=[f"refused: {self._refused} of {self._asked}; allowed: {_REFUSED_SHARE:.0%}", *failure.facts],
                fix="correct the cause, then run the same command again: answers so far are stored",
            ) from failure
        return GeneratedText("", "", "refused")
