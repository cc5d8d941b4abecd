"""What a model reads and what is scored, as tensors.

Shapes: B sequences, L positions of the longest one.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from torch import Tensor


class TokenBatch(TypedDict):
    """Padded sequences. One holds one sample; with packing it holds several, one after another.

    input_ids: (B, L) int64. attention_mask: (B, L) int64, 1 at tokens and 0 at padding.
    position_ids: (B, L) int64, counted from the first token of each sample; 0 at padding.
    labels: (B, L) int64, input_ids where supervised and -100 elsewhere, not shifted.
    answer_mask: (B, L) bool, True where labels are not -100; never at the first token of a sample.
    rows: (B, L) int64, the row's index in its split; -1 at padding.
    spans: (B, L) int64, where the same samples were also read by another tokenizer: the number, in the batch, of the
        span of bytes that the token lies in and that both tokenisations share the borders of; -1 where there is none.
    teacher: the same samples as the teacher's tokenizer reads them, with the same span numbers.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    answer_mask: Tensor
    rows: Tensor
    spans: NotRequired[Tensor]
    teacher: NotRequired[TokenBatch]
