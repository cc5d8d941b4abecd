"""Compare what a server gives for the first rows with a unigram model: well-formed values can be of another model.

They can also be of other tokens: one that is hard for the unigram model is hard for every model of the text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from distillab.cache.next_tokens import TopK
from distillab.data.encoding import EncodedRow
from distillab.doctor.pair.signal import audit_scores
from distillab.evaluation.references import reference_lines, standard_error, unigram_nats
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.terminal import echo

ROWS = 8
_ERRORS = 3.0
_MOST_COUNTED = 2_000  # rows that only count tokens


class FirstRows:
    """Warn once if the teacher predicts the answers of the first rows worse than a unigram model of the others does.

    And if its values fit the tokens beside theirs (`audit_scores`).

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
        self._logp: dict[int, npt.NDArray[np.float64]] = {}  # of each token of a row; NaN: not scored
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
                    values = np.full(len(one.ids), np.nan)
                    values[list(one.scored)] = got.actual_logp
                    self._logp[_key(one.ids)] = values
            if len(self._logp) < ROWS:
                return
            self._judged = True
            self._compare()

    def _compare(self) -> None:
        judged: dict[int, EncodedRow] = {}
        others: list[EncodedRow] = []
        for row in self._rows:
            if (key := _key(row.input_ids)) in self._logp:
                judged[key] = row
            elif len(others) < _MOST_COUNTED:
                others.append(row)
        lines = reference_lines(others, list(judged.values()), vocabulary=self._vocabulary)
        tokens = [int(row.answer_mask.sum()) for row in judged.values()]
        nats = [-float(np.nansum(self._logp[key])) for key in judged]
        own = sum(nats) / sum(tokens)
        above = [one - lines.unigram_nats * count for one, count in zip(nats, tokens, strict=True)]
        if own > lines.unigram_nats + _ERRORS * standard_error(above, sum(tokens)):
            self._warn(
                f"is worse than a unigram model: {own:.2f} nats per token, unigram model {lines.unigram_nats:.2f} "
                f"(log V {lines.uniform_nats:.2f}), over {sum(tokens):,} tokens of the first {len(judged)} rows; is it "
                "the model of teacher.path, and has it learnt such data?"
            )
        self._compare_places(judged, unigram_nats(others, vocabulary=self._vocabulary))

    def _compare_places(self, judged: Mapping[int, EncodedRow], nats_of: Callable[[int], float]) -> None:
        scores, reference = np.full((2, len(judged), max(map(len, judged.values()))), np.nan)
        for number, (key, row) in enumerate(judged.items()):
            places = np.flatnonzero(~np.isnan(self._logp[key]))
            scores[number, places] = self._logp[key][places]
            reference[number, places] = [-nats_of(int(token)) for token in row.input_ids[places]]
        for found in audit_scores(torch.from_numpy(scores), torch.from_numpy(reference)).findings:
            # a text of rare words alone fits no unigram model; another place that fits is certain
            if found.id == "scores-shifted":
                self._warn(f"gives values of other tokens ({found.id}): {'; '.join((*found.evidence, *found.fix[:1]))}")

    def _warn(self, what: str) -> None:
        text = f"the teacher behind {self._where} {what}"
        echo(f"WARNING: {text}", error=True)
        self._note(text)


def _key(ids: Sequence[int] | npt.NDArray[np.int32]) -> int:
    return hash(np.asarray(ids, dtype=np.int32).tobytes())
