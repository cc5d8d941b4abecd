"""A teacher whose weights are in this process."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.config.models import TeacherConfig
from distillab.errors import TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.loading import load_model, model_name, pick_device, weights_sha256
from distillab.models.scoring import scored_logits
from distillab.records import TeacherProvenance
from distillab.teachers.protocol import TeacherCapabilities
from distillab.teachers.signals import FullLogits


class LocalTeacher:
    """Runs a model in eval mode, without gradients, outside of the student's module tree.

    The signal is made under `no_grad`, not `inference_mode`: an inference tensor cannot be saved for the
    student's backward pass.
    """

    def __init__(self, model: PreTrainedModel, provenance: TeacherProvenance) -> None:
        # A list keeps the model out of any module tree that this object might become part of.
        self._model = [model.eval().requires_grad_(False)]
        self._capabilities = TeacherCapabilities(access="internals", provenance=provenance)

    @property
    def model(self) -> PreTrainedModel:
        """The weights, in eval mode and without gradients."""
        return self._model[0]

    @property
    def capabilities(self) -> TeacherCapabilities:
        """Everything: a model in this process hides nothing."""
        return self._capabilities

    @torch.no_grad()
    def signal(self, batch: TokenBatch) -> FullLogits:
        """Full logits at the scored positions.

        Raises:
            TeacherError: the batch holds ids that the teacher has no embedding for.
        """
        model = self.model
        if model.training:
            model.eval()  # a wrapper may have switched dropout on
        width = cast(Tensor, model.get_input_embeddings().weight).shape[0]
        top = int(batch["input_ids"].max())
        if top >= width:
            raise TeacherError(
                "The batch holds a token id that the teacher has no embedding for.",
                facts=[f"largest id {top}", f"teacher embeddings {width}"],
            )
        logits = scored_logits(model, batch)
        return FullLogits(logits.to(batch["input_ids"].device))


def load_local(settings: TeacherConfig, *, student_device: torch.device, template_sha256: str) -> LocalTeacher:
    """A teacher from its folder or hub id.

    Args:
        student_device: where it goes unless the settings say otherwise.
        template_sha256: of the template by which it reads rows, for its provenance.
    Raises:
        TeacherError: the weights are missing or do not fit the configuration.
    """
    model = load_model(
        settings.path,
        dtype=settings.dtype,
        device=student_device if settings.device == "auto" else pick_device(settings.device),
        device_map=settings.device_map,
        revision=settings.revision,
        role="teacher",
    )
    provenance = TeacherProvenance(
        name=model_name(settings.path),
        weights_sha256=weights_sha256(settings.path),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        template_sha256=template_sha256,
    )
    return LocalTeacher(model, provenance)
