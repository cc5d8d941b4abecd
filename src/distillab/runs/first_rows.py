"""Compare what a server gives for the first rows with the unigram line: well-formed values can be of another model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from distillab.cache.next_tokens import TopK
from distillab.data.encoding import EncodedRow
from distillab.evaluation.references import reference_lines, standard_error
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.terminal import echo

ROWS = 8
_ERRORS = 3.0
_MOST_COUNTED = 2_000  # rows that only count tokens


class FirstRows:
    """Warn once if the teacher predicts the answers of the first rows worse than a unigram model of the others does.

    Args:
        rows: that will be scored, in the teacher's tokens.
        vocabulary: number of ids of its tokenizer.
        where: the server.
        note: called with the warning, which is also printed.
    """

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        *,
        vocabulary: int,
        where: str,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._rows, self._vocabulary, self._where, self._note = rows, vocabulary, where, note
        self._known = {_key(row.input_ids) for row in rows}
        self._nats: dict[int, float] = {}
        self._lock, self._judged = threading.Lock(), False

    def has(self, ids: Sequence[int]) -> bool:
        """Return whether a row is among those that were given; what a student writes is not."""
        return _key(ids) in self._known

    def __call__(self, wanted: Sequence[Wanted], found: Sequence[TopK]) -> None:
        """Count rows that were scored; with the eighth, compare."""
        with self._lock:
            if self._judged:
                return
            for one, got in zip(wanted, found, strict=True):
                if self.has(one.ids):
                    self._nats[_key(one.ids)] = -float(got.actual_logp.sum(dtype="float64"))
            if len(self._nats) < ROWS:
                return
            self._judged = True
            self._compare()

    def _compare(self) -> None:
        judged: dict[int, EncodedRow] = {}
        others: list[EncodedRow] = []
        for row in self._rows:
            if (key := _key(row.input_ids)) in self._nats:
                judged[key] = row
            elif len(others) < _MOST_COUNTED:
                others.append(row)
        lines = reference_lines(others, list(judged.values()), vocabulary=self._vocabulary)
        tokens = [int(row.answer_mask.sum()) for row in judged.values()]
        nats = [self._nats[key] for key in judged]
        own = sum(nats) / sum(tokens)
        above = [one - lines.unigram_nats * count for one, count in zip(nats, tokens, strict=True)]
        if own > lines.unigram_nats + _ERRORS * standard_error(above, sum(tokens)):
            text = (
                f"the teacher behind {self._where} is worse than a unigram model: {own:.2f} nats per token, unigram "
                f"model {lines.unigram_nats:.2f} (log V {lines.uniform_nats:.2f}), over {sum(tokens):,} tokens of the "
                f"first {len(judged)} rows; is it the model of teacher.path, and has it learnt such data?"
            )
            echo(f"WARNING: {text}", error=True)
            self._note(text)


def _key(ids: Sequence[int] | npt.NDArray[np.int32]) -> int:
    return hash(np.asarray(ids, dtype=np.int32).tobytes())
