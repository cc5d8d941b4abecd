"""Compute the weight of each term at each step: constant, linear in the step, or balanced by gradient norms.

A gradient is measured where all terms reach the student: at the parameters of the highest decoder block that the
gradient of each term reaches (the embeddings, if a term compares only those).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from distillab.config.term_base import LinearWeight, is_balanced
from distillab.errors import ConfigError
from distillab.models.sharded import gathered, is_sharded, several_backward_passes
from distillab.models.structure import bare_model, decoder_blocks, model_shape
from distillab.objectives.term import ActivationTerm, Objective, Term

DEFAULT_EVERY = 50


@dataclass
class Weighting:
    """Weights of an objective's terms.

    Args:
        objective: the terms with their settings.
        steps: optimizer steps of the run.
        every: steps between two measurements of the gradient; None: a tenth of the run, at most 50; 0: never.
        balanced: name -> its last weight; 1 before the first measurement.
    """

    objective: Objective
    steps: int
    every: int | None
    balanced: dict[str, float] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        """Return whether gradients are measured at this step (from 1): the first one, and every so many after it."""
        if len(self.objective.terms) < 2 or self.every == 0:
            return False
        every = self.every or min(DEFAULT_EVERY, max(1, self.steps // 10))
        return (step - 1) % every == 0

    def weights(self, step: float) -> dict[str, float]:
        """Name -> weight at this step."""
        done = (step - 1) / max(1, self.steps - 1)
        found = {}
        for item in self.objective.terms:
            match item.weight:
                case LinearWeight():
                    factor = item.weight.start + (item.weight.end - item.weight.start) * done
                case "balanced":
                    factor = 1.0
                case _:
                    factor = item.weight
            found[item.name] = factor * (self.balanced.get(item.name, 1.0) if is_balanced(item.weight) else 1.0)
        return found

    def balance(self, gradients: Mapping[str, Tensor], *, step: float) -> dict[str, float]:
        """Set the balanced weights, and return each term's share of the gradient at its weight.

        Args:
            gradients: name -> gradient of the term's unweighted loss over the whole step and all processes, flat.
        Returns:
            name -> weight · ‖gradient‖ / Σ over the terms of the same; zeros if no term has a gradient.
        """
        weights = self.weights(step)
        settled = [item.name for item in self.objective.terms if not is_balanced(item.weight)]
        reference = torch.stack([weights[name] * gradients[name] for name in settled]).sum(dim=0).norm()
        for item in self.objective.terms:
            size = gradients[item.name].norm()
            if is_balanced(item.weight) and bool(size > 0):
                self.balanced[item.name] = float(reference / size)
        weights = self.weights(step)
        sizes = {name: weights[name] * float(gradient.norm()) for name, gradient in gradients.items()}
        total = sum(sizes.values())
        return {name: size / total if total else 0.0 for name, size in sizes.items()}


def gradient_cosines(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the cosine between each two terms' gradients, by "one ~ other"; a zero gradient has none.

    Below zero a small step that lowers one of the two losses raises the other.

    Args:
        gradients: as for `Weighting.balance`.
    """
    directions = {name: g / g.norm() for name, g in gradients.items() if bool((g != 0).any())}
    return {
        f"{one} ~ {other}": float(directions[one] @ directions[other]) for one, other in combinations(directions, 2)
    }


def shared_parameters(objective: Objective, model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the learning parameters of the highest block that every term's gradient reaches.

    Raises:
        ConfigError: none of them learns.
    """
    blocks = model_shape(model).blocks
    lowest = min(_reach(item.term, blocks) for item in objective.terms)
    part = decoder_blocks(model)[lowest - 1] if lowest else bare_model(model).get_input_embeddings()
    with gathered(part):  # of a divided model, those that the forward pass computes with
        found = [p for p in part.parameters() if p.requires_grad]
    if not found:
        raise ConfigError(
            "The terms' shares of the gradient cannot be measured on this student.",
            facts=[f"block {lowest}: none of its parameters learns"],
            fix="set training.gradient_shares_every: 0, with a number or {start, end} as the weight of every term",
        )
    return found


def _reach(term: Term, blocks: int) -> int:
    """Return the highest block that the term's gradient reaches; 0 is the embeddings."""
    if not isinstance(term, ActivationTerm):
        return blocks
    needed = term.student_activations
    return max(needed.hidden | needed.projections | needed.maps)


def term_gradients(
    objective: Objective, model: torch.nn.Module, microbatches: Sequence[Callable[[], Mapping[str, Tensor]]]
) -> dict[str, Tensor]:
    """Return the gradient of each term's unweighted loss over a step, at the parameters that all terms reach; flat.

    A separate pass, so that the weights of the step are known before its first microbatch, and do not depend on how
    the step is split.

    Args:
        microbatches: each computes name -> the term's loss on a microbatch of this process.
    Raises:
        ConfigError: see `shared_parameters`.
    """
    parameters = shared_parameters(objective, model)
    total: dict[str, Tensor] = {}
    with several_backward_passes(model, _reached(objective, model)):
        for losses in microbatches:
            for name, loss in losses().items():
                part = _gradient_at(parameters, loss)
                total[name] = total[name] + part if name in total else part
    return total


def _reached(objective: Objective, model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the blocks of a divided model that the gradients pass, but those that are kept gathered anyway."""
    if not is_sharded(model):
        return []
    blocks, tapped = decoder_blocks(model), objective.student_activations.inside
    lowest = min(_reach(item.term, len(blocks)) for item in objective.terms)
    return [block for number, block in enumerate(blocks, start=1) if number >= lowest and number not in tapped]


def _gradient_at(parameters: Sequence[torch.nn.Parameter], loss: Tensor) -> Tensor:
    """Compute the loss's gradient at these parameters, flat and float32; the graph is kept, `.grad` not changed."""
    found = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if gradient is None else gradient).float().flatten()
            for p, gradient in zip(parameters, found, strict=True)
        ]
    )
