"""The teachers of a study: which there are, and which are evaluated beside its runs."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.config.study import ArmConfig, StudyRecipe
from distillab.config.teacher import TeacherConfig
from distillab.errors import ConfigError
from distillab.teachers.spec import teacher_name


class PartArm(ArmConfig):
    """One of the several teachers of an arm, as an arm.

    Attributes:
        part: its name.
        every_row: it reads all rows, not only its own.
    """

    part: str
    every_row: bool = False


def one_teacher_each(recipe: StudyRecipe, arms: Sequence[ArmConfig], *, every_row: bool = False) -> list[ArmConfig]:
    """Return the arms; in place of an arm with several teachers one for each of them."""
    found: list[ArmConfig] = []
    for arm in arms:
        for name, teacher in recipe.teachers_of(arm).items():
            values = {field: getattr(arm, field) for field in ArmConfig.model_fields} | {"teacher": teacher}
            found.append(PartArm.model_construct(**values, part=name, every_row=every_row) if name else arm)
    return found


def only_teacher(recipe: StudyRecipe, arm: ArmConfig) -> TeacherConfig:
    """Return the teacher of an arm that has one.

    Raises:
        ConfigError: it has several.
    """
    each = recipe.teachers_of(arm)
    if len(each) > 1:
        raise ConfigError(f"The arm {arm.name} has several teachers, and this needs one.", facts=list(each))
    return next(iter(each.values()))


def arm_of_each_teacher(recipe: StudyRecipe) -> list[ArmConfig]:
    """Return one arm for each teacher of a study, in their order; each reads all rows."""
    first: dict[tuple[object, ...], ArmConfig] = {}
    for arm in one_teacher_each(recipe, recipe.arms, every_row=True):
        teacher = only_teacher(recipe, arm)
        server = None if teacher.server is None else teacher.server.model_dump_json()  # it has a dict, without a hash
        key = (teacher.source, server, teacher.adapter, teacher.quantization, teacher.prompt_column)
        first.setdefault(key, arm)
    return list(first.values())


def arm_of_each_evaluated(recipe: StudyRecipe) -> list[ArmConfig]:
    """Return one arm for each teacher, and one for each quantised teacher in full precision where it is measured."""
    found = arm_of_each_teacher(recipe)
    names = {teacher_name(only_teacher(recipe, arm)) for arm in found}
    for arm in tuple(found):
        teacher = only_teacher(recipe, arm)
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
