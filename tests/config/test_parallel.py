"""How a model is divided over processes: what has no effect or cannot work is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from distillab.config.identity import settings_identity
from distillab.config.parallel import ParallelConfig
from distillab.config.student import StudentConfig
from distillab.config.teacher import TeacherConfig


@pytest.mark.parametrize(
    ("parallel", "rule"),
    [
        ({}, "divides nothing"),
        ({"offload": True, "tensor": 2}, "offload has no effect without fsdp"),
        ({"replicate": 2, "tensor": 2}, "replicate makes groups of fsdp processes"),
        ({"fsdp": 0}, "greater than or equal to 1"),
    ],
)
def test_sizes_that_divide_nothing_are_refused(parallel: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ParallelConfig(**parallel)


def test_a_student_is_not_divided_by_tensor_and_no_quantised_weights_are() -> None:
    with pytest.raises(ValidationError, match=r"write parallel: \{fsdp: 4\}"):
        StudentConfig(path="s", parallel=ParallelConfig(fsdp=2, tensor=2))
    with pytest.raises(ValidationError, match="does not divide quantised weights"):
        StudentConfig(path="s", parallel=ParallelConfig(fsdp=2), quantization="nf4", adapter={"rank": 2})


@pytest.mark.parametrize("other", [{"device": "cpu"}, {"device_map": "auto"}, {"quantization": "int8"}])
def test_a_divided_teacher_chooses_its_devices(other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="parallel chooses the devices"):
        TeacherConfig(path="t", parallel=ParallelConfig(tensor=2), **other)


def test_a_model_is_the_same_however_it_is_divided() -> None:
    whole, parts = StudentConfig(path="s"), StudentConfig(path="s", parallel=ParallelConfig(fsdp=2, replicate=2))
    assert settings_identity(whole) == settings_identity(parts)
    assert parts.parallel is not None
    assert (parts.parallel.processes, parts.parallel.shards, parts.parallel.mesh) == (4, 2, "replicate 2 × fsdp 2")
