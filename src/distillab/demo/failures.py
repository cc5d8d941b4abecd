"""A broken collator on purpose: the demo trains with it to show a failure that a falling loss hides."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillab.data.collation import NO_ROW, UNSUPERVISED, Collator, IndexedRow
from distillab.models.batch import TokenBatch


class PromptPositions(Collator):
    """Wrong on purpose: the prompt alone is the input, the answer's n-th token the label at its n-th place.

    The investigated project was trained like this. The loss falls, because the model learns which tokens are frequent
    at which position, but it does not learn to continue an answer.
    """

    def __call__(self, rows: Sequence[IndexedRow]) -> TokenBatch:
        """Return (B, L) with L the longest prompt; labels[t + 1], predicted at position t, is the answer's token t."""
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
