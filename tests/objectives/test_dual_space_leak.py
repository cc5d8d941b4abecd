"""Why attention is causal: what a student gets that predicts nothing, and only repeats what it has read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distillab.config.terms import DualSpaceConfig
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedRow
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.scoring import at_scored, scored_targets
from distillab.models.structure import ModelShape
from distillab.objectives.cross_attention import cross_layout
from distillab.objectives.dual_space import DualSpace
from distillab.objectives.term import ModelOutputs

LETTERS = 6
WIDTH = 8


def _random_text(seed: int) -> TokenBatch:
    """Nothing of it can be predicted. Both sides have a token for each letter; the teacher's ids are one higher."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(8):
        ids, mask = generator.integers(0, LETTERS, size=12).astype(np.int32), np.arange(12) >= 1
        sides = [EncodedRow(f"row{index}", side, mask, 1) for side in (ids, ids + 1)]
        rows.append(PairedRow(index, *sides, np.arange(12), np.arange(12)))
    return PairedCollator(Collator(0), Collator(0))(rows)


def _ends(batch: TokenBatch, table: torch.Tensor, head: torch.Tensor) -> tuple[ModelOutputs, ModelOutputs]:
    """A student whose state is the letter that it has read last, a teacher that knows the next one."""
    read = table[batch["input_ids"]]
    theirs = batch["teacher"]
    known = 3.0 * head[scored_targets(theirs)]
    return (
        ModelOutputs(at_scored(read, batch), OutputHead(head[:LETTERS]), Activations(hidden={0: read})),
        ModelOutputs(known, OutputHead(head), Activations(hidden={0: table[theirs["input_ids"]]})),
    )


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_what_a_student_that_repeats_what_it_has_read_gets_for_it(attention: str) -> None:
    torch.manual_seed(0)
    table, head = torch.eye(WIDTH) * 3, torch.eye(WIDTH) * 3
    shape = ModelShape(1, WIDTH, 1, 1, WIDTH)
    settings = DualSpaceConfig(attention=attention, temperature=1.0)  # type: ignore[arg-type]
    term = DualSpace(settings, student=shape, teacher=shape, student_width=LETTERS, teacher_width=LETTERS + 1)
    assert term.projector is not None
    optimizer = torch.optim.Adam(term.projector.parameters(), lr=0.05)
    for step in range(150):
        batch = _random_text(step)
        optimizer.zero_grad()
        (term.total(*_ends(batch, table, head), batch) / term.count(batch)).backward()
        optimizer.step()
    batch = _random_text(1000)
    with torch.no_grad():
        _, state_mE = term._projected(
            *_ends(batch, table, head), batch, cross_layout(batch, causal=attention == "causal")
        )
        targets_m = scored_targets(batch["teacher"])
        nats = torch.nn.functional.cross_entropy((state_mE @ head.T)[:, : LETTERS + 1], targets_m).item()
    unknown = math.log(LETTERS)
    if attention == "full":
        assert nats < 0.3 * unknown  # the state behind the next letter has read it
    else:
        # it has nothing to say; but where the letter stood before, the weights, which know it, find that place again
        assert 0.8 * unknown < nats < unknown
