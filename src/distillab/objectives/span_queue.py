"""A queue of the teacher's spans of earlier optimizer steps, as in MoCo.

Shape letters: Q places, n spans of a step, E the teacher's width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

_PLACE_BITS = 32  # spans of one row fit in these


def span_key(row_S: Tensor, place_S: Tensor) -> Tensor:
    """Return (S,) int64, one number for a span of the data set, by which spans of a step are ordered."""
    return (row_S << _PLACE_BITS) | place_S


class SpanQueue(torch.nn.Module):
    """The newest spans, first in, first out, as buffers: saved and resumed with the module that holds them.

    It keeps the teacher's states before any projection, so that heads that are trained later apply to them as well.

    Args:
        places: Q, at least 1.
        width: E.
    """

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.register_buffer("states", torch.zeros(places, width))
        self.register_buffer("texts", torch.zeros(places, dtype=torch.int64))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))  # spans put in since the start

    @property
    def states_QE(self) -> Tensor:
        """(Q, E) float32; zeros where a place is empty. In no order that means anything."""
        return cast(Tensor, self.states)

    @property
    def text_Q(self) -> Tensor:
        """(Q,) int64, see `SpanLayout.text_S`."""
        return cast(Tensor, self.texts)

    @property
    def filled_Q(self) -> Tensor:
        """(Q,) bool."""
        return torch.arange(self.text_Q.shape[0], device=self.text_Q.device) < cast(Tensor, self.taken)

    @torch.no_grad()
    def put(self, *, key_n: Tensor, text_n: Tensor, states_nE: Tensor) -> None:
        """Add the spans of one optimizer step, in the order of their keys; the oldest ones are dropped.

        A span that is given twice counts once. If there are more than Q, evenly spaced ones are taken, so that no row
        of the step is preferred.

        Args:
            key_n: see `span_key`.
            text_n: see `SpanLayout.text_S`.
            states_nE: the teacher's states.
        """
        key_n, order_n = key_n.sort(stable=True)
        first_n = torch.ones_like(key_n, dtype=torch.bool)
        first_n[1:] = key_n[1:] != key_n[:-1]
        order_n = order_n[first_n]
        places, given = self.text_Q.shape[0], order_n.shape[0]
        if given > places:
            order_n = order_n[torch.arange(places, device=order_n.device) * given // places]
        taken = cast(Tensor, self.taken)
        here = (taken + torch.arange(order_n.shape[0], device=taken.device)) % places
        self.states_QE[here] = states_nE[order_n].to(self.states_QE.dtype)
        self.text_Q[here] = text_n[order_n]
        taken += order_n.shape[0]
