"""A head apart from its body gives the model's own logits, or the model is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillab.errors import ConfigError
from distillab.models.heads import output_head, require_separable_head
from tests.models.head_models import KINDS, VOCABULARY, tiny_model


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_head_gives_the_models_own_logits_with_and_without_memory_of_ours(kind: str) -> None:
    model = tiny_model(kind).eval()
    ids = torch.arange(12).reshape(2, 6)
    kept: list[torch.Tensor] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    with torch.no_grad():
        expected = model(input_ids=ids).logits.flatten(0, 1)
        hidden = kept[0].flatten(0, 1)
        head = output_head(model)
        torch.testing.assert_close(head.logits(hidden), expected)
        torch.testing.assert_close(head.logits(hidden, out=torch.empty(12, VOCABULARY)), expected)
    require_separable_head(model, role="student")


def test_a_model_that_does_something_unknown_to_its_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("untied")
    usual = model.forward

    def shifted(**inputs: Any) -> Any:
        output = usual(**inputs)
        output.logits = output.logits + 1.0
        return output

    monkeypatch.setattr(model, "forward", shifted)
    with pytest.raises(ConfigError, match=r"(?s)teacher's logits are not.*off by"):
        require_separable_head(model, role="teacher")


def test_a_quantised_head_is_refused() -> None:
    model = tiny_model("untied")
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCABULARY, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="no plain matrix"):
        output_head(model)
