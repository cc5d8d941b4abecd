"""The teachers of a study: which there are, and which are evaluated beside its runs."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.config.models import ArmConfig
from distillab.config.teacher import TeacherConfig
from distillab.errors import ConfigError
from distillab.teachers.spec import teacher_name


def arm_of_each_teacher(arms: Sequence[ArmConfig], default: TeacherConfig) -> list[ArmConfig]:
    """Return one arm for each teacher of a study, in their order.

    Args:
        default: teacher of the arms that name none.
    """
    first: dict[tuple[str | None, ...], ArmConfig] = {}
    for arm in arms:
        teacher = arm.teacher or default
        first.setdefault((teacher.source, teacher.adapter, teacher.quantization, teacher.prompt_column), arm)
    return list(first.values())


def arm_of_each_evaluated(arms: Sequence[ArmConfig], default: TeacherConfig) -> list[ArmConfig]:
    """Return one arm for each teacher, and one for each quantised teacher in full precision where it is measured."""
    found = arm_of_each_teacher(arms, default)
    names = {teacher_name(arm.teacher or default) for arm in found}
    for arm in tuple(found):
        teacher = arm.teacher or default
        if teacher.measure_full_precision and teacher_name(full := in_full_precision(teacher)) not in names:
            names.add(teacher_name(full))
            found.append(arm.model_copy(update={"teacher": full}))
    return found


def in_full_precision(teacher: TeacherConfig) -> TeacherConfig:
    """Return the teacher with its weights as they are."""
    return teacher.model_copy(update={"quantization": None})


def require_distinct(teachers: Sequence[TeacherConfig]) -> None:
    """Check that the teachers of a study have different names.

    Raises:
        ConfigError: two have the same.
    """
    names = [teacher_name(teacher) for teacher in teachers]
    if len(set(names)) != len(names):
        raise ConfigError(
            "Two teachers of the study have the same name, so their results could not be distinguished.",
            facts=[f"{name}: {teacher.source}" for name, teacher in zip(names, teachers, strict=True)],
            fix="rename one of the folders",
        )
