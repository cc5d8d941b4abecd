"""Write the folder of an export: the student in one form, its card and its recipe."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from distillab.errors import ConfigError
from distillab.export.card import RECIPE, model_card
from distillab.export.finished import FinishedRun
from distillab.export.forms import To
from distillab.export.weights import copy_student, write_merged
from distillab.files import new_folder, require_space, write_json, write_text
from distillab.paths import is_local, is_url

_USE = """from transformers import AutoTokenizer, {loader}

model = {loader}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
ids = tokenizer("…", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=100)[0]))"""


def export_run(
    run: FinishedRun, folder: Path, *, to: To, dtype: str = "f16", licence: str | None = None
) -> tuple[str, ...]:
    """Write the student of a run in one form, with its card; return what the form changes, for the user.

    Args:
        folder: must not exist, or be empty.
        dtype: of the weights in a GGUF file: f32, f16 or q8_0.
        licence: of the student, for the card.
    Raises:
        ConfigError: the folder is not empty; or the student cannot be written in this form.
        DataError, StorageError: files are damaged; the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("The folder of an export must be new.", where=str(folder), fix="remove it, or give --out")
    size = sum(file.stat().st_size for file in run.student.rglob("*") if file.is_file())
    require_space(folder, size + (1 << 22), what="the exported student")
    if to == "hub" and run.has_adapters and run.base is None:
        raise ConfigError(
            "Whoever downloads these adapters could not load them: the model under them is on this machine alone.",
            where=str(run.student),
            facts=[f"it is: {run.settings['path']}"],
            fix="use --to merged, and upload that folder with `hf upload OWNER/NAME FOLDER`",
        )
    name = run.record.name
    notes: tuple[str, ...] = ()
    with new_folder(folder) as made:
        if to == "gguf":
            from distillab.export.gguf_file import write_gguf_folder

            use, notes = write_gguf_folder(run, made, dtype=dtype)
        else:
            (write_merged if to == "merged" else copy_student)(run, made)
            adapted = run.has_adapters and to != "merged"
            use = _USE.format(loader="AutoModelForCausalLM", name=name)
            if adapted:
                use = use.replace("AutoModelForCausalLM", "AutoPeftModelForCausalLM")
                use = use.replace(", AutoPeft", "\nfrom peft import AutoPeft")
        write_text(made / "README.md", model_card(run, use=use, licence=licence, notes=notes))
        write_json(made / RECIPE, shared_recipe(run))
    return notes


def shared_recipe(run: FinishedRun) -> dict[str, Any]:
    """Return the run's recipe, with the last part alone of paths of this machine."""
    found: dict[str, Any] = _shared(run.record.config)
    return found | {"output": f"runs/{run.record.name}"}


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shared(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_shared(part) for part in value]
    if isinstance(value, str) and value.startswith(("/", "~", ".")) and is_local(value) and not is_url(value):
        return f"./{PurePosixPath(value).name}"
    return value
