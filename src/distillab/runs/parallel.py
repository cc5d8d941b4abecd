"""Check that a run has the processes over which its recipe divides its models."""

from __future__ import annotations

from distillab.config.parallel import ParallelConfig
from distillab.config.run import RunRecipe
from distillab.models.sharded import require_mesh
from distillab.terminal import echo


def require_processes(recipe: RunRecipe) -> None:
    """Check that each divided model has as many processes as it needs, and print how it is divided.

    Raises:
        ConfigError: the launcher has started another number of processes.
    """
    for role, settings in divided_models(recipe).items():
        require_mesh(settings, role=role)
    for line in parallel_notes(recipe):
        echo(line, error=True)


def parallel_notes(recipe: RunRecipe) -> list[str]:
    """Return how the models of a run are divided, a line each; nothing where they are not."""
    return [f"The {role} is divided over processes: {mesh.mesh}." for role, mesh in divided_models(recipe).items()]


def processes_of(recipe: RunRecipe) -> int:
    """Return the processes over which a recipe divides its models; 1 where it divides none."""
    return max((settings.processes for settings in divided_models(recipe).values()), default=1)


def divided_models(recipe: RunRecipe) -> dict[str, ParallelConfig]:
    """Return the models that are divided: "student", "teacher", or "teachers.NAME" of several."""
    models = {"student": recipe.student.parallel} | {
        f"teachers.{name}" if name else "teacher": one.parallel for name, one in recipe.each_teacher.items()
    }
    return {role: settings for role, settings in models.items() if settings is not None}
