"""Train the projectors of terms on activations beside the student, and save them apart from it.

During training they are in the student's module tree, so that they are synchronised, clipped, checkpointed and
resumed with it; before the student is exported they are removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from distillab.files import write_bytes
from distillab.objectives.term import Objective

_PLACE = "distillab_projectors"
FILE = "projectors.safetensors"


def attach(objective: Objective, student: torch.nn.Module) -> None:
    """Put the objective's projectors into the student's module tree, on its device."""
    found = {name: term.projector for name, term in objective.state_terms.items() if term.projector is not None}
    if found:
        device = next(student.parameters()).device
        student.add_module(_PLACE, torch.nn.ModuleDict(found).to(device))


def attached(student: torch.nn.Module) -> Mapping[str, torch.nn.Module]:
    """Name of the term -> its projector."""
    place = getattr(student, _PLACE, None)
    return dict(place.items()) if isinstance(place, torch.nn.ModuleDict) else {}


def detach(student: torch.nn.Module, *, folder: Path | None) -> None:
    """Remove the projectors from the student, if there are any.

    Args:
        folder: where they are saved; None on all processes but the first.
    """
    place = getattr(student, _PLACE, None)
    if isinstance(place, torch.nn.ModuleDict):
        if folder is not None:
            write(student, folder)
        delattr(student, _PLACE)


def write(student: torch.nn.Module, folder: Path) -> None:
    """Write the projectors of a student into a folder; does nothing where there are none."""
    place = getattr(student, _PLACE, None)
    if isinstance(place, torch.nn.ModuleDict):
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in place.state_dict().items()}
        write_bytes(folder / FILE, save(tensors))


def read(student: torch.nn.Module, folder: Path) -> None:
    """Read what `write` wrote; does nothing where there are none."""
    place = getattr(student, _PLACE, None)
    if isinstance(place, torch.nn.ModuleDict):
        place.load_state_dict(load_file(folder / FILE))


def give_own_learning_rates(optimizer: torch.optim.Optimizer, objective: Objective, student: torch.nn.Module) -> None:
    """Move projectors with their own learning rate into separate parameter groups."""
    for name, projector in attached(student).items():
        rate = objective.state_terms[name].projector_learning_rate
        if rate is None:
            continue
        chosen = list(projector.parameters())
        ids = {id(parameter) for parameter in chosen}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
        optimizer.add_param_group({"params": chosen, "lr": rate, "weight_decay": 0.0})
