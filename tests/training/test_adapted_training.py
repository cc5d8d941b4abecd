"""Terms on the inside of a student whose adapters alone learn, and resuming with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillab.config.layer_terms import AttentionMapsConfig, HiddenStatesConfig
from distillab.config.methods import METHODS
from distillab.config.student import AdapterConfig
from distillab.config.terms import CrossEntropyConfig, TermConfig
from distillab.models.adapters import add_adapter
from tests.training.conftest import Train, ragged_split, teacher, tiny_llama

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT reads it
PROJECTED = (CrossEntropyConfig(), HiddenStatesConfig(projector="linear", weight=1.0))


def _adapted(**settings: Any) -> Any:
    return add_adapter(tiny_llama(0), AdapterConfig(rank=2, **settings), seed=0)


@pytest.mark.parametrize(
    "terms",
    [
        METHODS["logits"].terms,
        METHODS["white_box"].terms,
        PROJECTED,
        (CrossEntropyConfig(), AttentionMapsConfig()),
    ],
    ids=["logits", "white_box", "projector", "attention maps"],
)
def test_the_first_step_has_the_loss_of_the_student_without_adapters(train: Train, terms: Sequence[TermConfig]) -> None:
    def first(student: Any) -> dict[str, tuple[float, int]]:
        source = teacher()
        source.model.set_attn_implementation("eager")
        student.set_attn_implementation("eager")
        return train(student=student, terms=terms, source=source, gradient_shares_every=1)[1][0].terms

    plain, adapted = tiny_llama(0), _adapted()
    kept = {name: value.clone() for name, value in adapted.state_dict().items() if "lora_" not in name}
    assert first(adapted) == first(plain)
    assert all(torch.equal(adapted.state_dict()[name], value) for name, value in kept.items())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_killed_run_resumes_bit_exactly_from_adapters_alone(train: Train, tmp_path: Path, dropout: float) -> None:
    settings = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "split": ragged_split(10), "terms": PROJECTED}
    straight, reports = train(student=_adapted(dropout=dropout), folder=tmp_path / "straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(student=_adapted(dropout=dropout), folder=tmp_path / "killed", stop_after=3, **settings)
    checkpoint = tmp_path / "killed" / "checkpoint-2"
    (tensors,) = (checkpoint / "state").iterdir()
    kept = {name for name in load_file(tensors) if name.startswith("model.")}
    assert all("lora_" in name or "projector" in name for name in kept) and len(kept) == 2 * 14 + 1
    resumed, rest = train(
        student=_adapted(dropout=dropout), folder=tmp_path / "killed", resume=str(checkpoint), **settings
    )
    assert [r.loss for r in rest] == [r.loss for r in reports[2:]]
    other = dict(resumed.named_parameters())
    assert all(torch.equal(parameter, other[name]) for name, parameter in straight.named_parameters())
