"""Put the recipes into the wheel; they are beside the package, where a reader of the repository looks for them."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RecipesHook(BuildHookInterface):
    """Adds `recipes/` as `distillab/recipes/`. An editable install needs no copy: it reads those of the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the folder to hatchling; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["recipes"] = "distillab/recipes"
