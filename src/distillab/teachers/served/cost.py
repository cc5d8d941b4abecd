"""What a teacher behind a server costs: counted over all starts, limited, and projected before it is spent."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distillab.config.served import PricesConfig, ServerConfig
from distillab.records import ServedCost
from distillab.teachers.served.errors import ServerError
from distillab.teachers.served.exchange import Paid, Usage
from distillab.teachers.served.journal import paid_in
from distillab.terminal import echo


def served_cost(paid: Paid, prices: PricesConfig | None) -> ServedCost | None:
    """Return the record of what answers took; None if there are none."""
    usage = paid.usage
    if not paid.requests:
        return None
    return ServedCost(
        requests=paid.requests,
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        seconds=paid.seconds,
        money=_money(prices, usage),
    )


class Account:
    """What was paid for a teacher's answers, in all its journals, against `max_cost`. Threads may share it."""

    def __init__(self, server: ServerConfig) -> None:
        self.server, self._paid = server, Paid()
        self._included: set[Path] = set()
        self._running = 0
        self._lock = threading.Lock()

    @property
    def paid(self) -> Paid:
        """So far."""
        return self._paid

    def include(self, folder: Path) -> None:
        """Count what the journal in a folder holds, once.

        Raises:
            CacheCorrupt: it is damaged.
        """
        with self._lock:
            if folder not in self._included:
                self._included.add(folder)
                self._paid += paid_in(folder)

    def add(self, paid: Paid) -> None:
        """Count an answer.

        Raises:
            ServerError: there is a limit, and the server does not count its tokens.
        """
        if self.server.max_cost is not None and paid.usage == Usage():
            raise ServerError(
                "The server does not count its tokens, so teacher.server.max_cost cannot be kept.",
                where=self.server.url,
                fix="leave max_cost out",
            )
        with self._lock:
            self._paid += paid

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request as on its way, inside of the block.

        Raises:
            ServerError: with it, and the others on their way, the limit would be passed: each is as dear as the mean.
        """
        with self._lock:
            self._require_money(self._running + 1)
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _require_money(self, running: int) -> None:
        limit, paid = self.server.max_cost, self._paid
        spent = _money(self.server.prices, paid.usage) or 0.0
        if limit is None or (spent < limit and spent + running * spent / max(paid.requests, 1) <= limit * (1 + 1e-9)):
            return
        raise ServerError(
            "The next answer of the teacher would cost more than teacher.server.max_cost allows.",
            where=self.server.url,
            facts=[f"spent: {spent:.6g} in {paid.requests:,} requests", f"max_cost: {limit:g}"],
            fix="raise teacher.server.max_cost and run the same command again: what was paid for is stored",
        )


class Projection:
    """Prints what requests will take: at most, before the first one; and then by the first answers.

    Args:
        of: name of the requests, as "answers".
        sizes: tokens that each reads, and generates at most.
        stored: what was answered before, for the same purpose; None: nothing.
    """

    def __init__(self, account: Account, of: str, sizes: Sequence[tuple[int, int]], stored: ServedCost | None) -> None:
        self._account, self._of = account, of
        self._rows, self._prompt = len(sizes), sum(prompt for prompt, _ in sizes)
        self._measured = False
        most = Usage(self._prompt, 0, sum(answer for _, answer in sizes))
        tokens = f"about {most.prompt:,} tokens read, at most {most.completion:,} generated"
        self._print(f"{self._rows:,} {of}, {tokens}", most)
        if stored is not None:
            echo(f"  of these, what was answered before is not asked again: {stored.requests:,} requests", error=True)

    def measured(self, rows: int, prompt: int, since: Paid, now: Paid) -> None:
        """Print, once, what all will take by what the first ones took.

        Args:
            rows: their number. prompt: their tokens as `sizes` counts them. since, now: paid before and after them.
        """
        paid = now - since
        if self._measured or not rows or paid.requests < rows:  # some were stored
            return
        self._measured = True
        by_prompt, by_rows = self._prompt / max(prompt, 1), self._rows / rows
        usage = Usage(
            round(paid.usage.prompt * by_prompt),
            round(paid.usage.cached * by_prompt),
            round(paid.usage.completion * by_rows),
        )
        tokens = f"{usage.prompt:,} tokens read, {usage.completion:,} generated, {paid.seconds * by_rows:,.0f} s"
        self._print(f"{self._rows:,} {self._of}, by the first {rows:,}: {tokens}", usage)

    def _print(self, what: str, usage: Usage) -> None:
        if (money := _money(self._account.server.prices, usage)) is not None:
            limit = self._account.server.max_cost
            what += f", {money:.4g} by teacher.server.prices" + ("" if limit is None else f" (max_cost {limit:g})")
        echo(f"teacher behind {self._account.server.url}: {what}", error=True)


def _money(prices: PricesConfig | None, usage: Usage) -> float | None:
    if prices is None:
        return None
    return prices.of(prompt=usage.prompt, cached=usage.cached, completion=usage.completion)
