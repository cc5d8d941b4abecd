"""The collator of the demo's first shown failure. For the demo alone; nothing else imports it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillab.data.collation import NO_ROW, UNSUPERVISED, Collator, IndexedRow
from distillab.models.batch import TokenBatch


class PromptPositions(Collator):
    """Input: the prompt alone. Target: the answer's n-th token at the prompt's n-th position.

    This is what the investigated project trained on. The loss falls, because the model learns which tokens are
    frequent at which place, and nothing about how an answer goes on.
    """

    def __call__(self, rows: Sequence[IndexedRow]) -> TokenBatch:
        """Return (B, L) with L the longest prompt; labels[t+1] is the answer's token t, which position t predicts."""
        longest = max(item.row.prompt_length for item in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self.pad_id, dtype=torch.int64)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, UNSUPERVISED, dtype=torch.int64)
        numbers = torch.full(shape, NO_ROW, dtype=torch.int64)
        for place, item in enumerate(rows):
            ids = torch.from_numpy(item.row.input_ids).long()
            prompt, answer = ids[: item.row.prompt_length], ids[item.row.prompt_length :]
            input_ids[place, : len(prompt)] = prompt
            attention_mask[place, : len(prompt)] = 1
            numbers[place, : len(prompt)] = item.index
            scored = min(len(prompt) - 1, len(answer))
            labels[place, 1 : 1 + scored] = answer[:scored]
        return TokenBatch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=torch.arange(longest) * attention_mask,
            labels=labels,
            answer_mask=labels != UNSUPERVISED,
            rows=numbers,
        )
