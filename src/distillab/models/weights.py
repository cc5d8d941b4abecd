"""Check the files of a model folder before any work: files that are no weights, or not those of a whole model.

Only names and headers are read. What needs the model (shapes, parameters that are missing or left over) is checked by
`load_model`.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from distillab.downloads import START_BYTES, not_downloaded
from distillab.errors import ConfigError, DistillabError, TeacherError
from distillab.files import read_json
from distillab.gguf_header import SUFFIX, read_header
from distillab.paths import is_gguf, is_local, local_path, require_folder

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_SHA256 = "base_weights_sha256"
"""In the metadata of adapters: which weights they were trained on."""
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DataParallel or DDP"}


def require_weights(path: str, *, role: str) -> None:
    """Check before any work that a model folder holds what loading will need.

    Raises:
        TeacherError: (role "teacher") or ConfigError: no such folder, no config.json, no weights, an adapter, a file
            that is no weights (a git-LFS pointer, a web page, cut off), a part that is missing, names of a wrapper, a
            GGUF file that is damaged.
    """
    if not is_local(path):
        return  # a hub id: nothing to check on this disk
    error = error_of(role)
    if is_gguf(path):
        read_header(local_path(path), error=error)
        return
    folder = require_folder(path, whose=role, error=error)
    files = sorted(file.name for file in folder.iterdir())
    shown = ", ".join(files[:12]) or "nothing"
    if ADAPTER_CONFIG in files:
        raise adapter_error(path, role=role, base=_base_of_adapter(folder))
    named = [f"{path}/{name}" for name in files if name.endswith(SUFFIX)]
    use_gguf = f"to use a GGUF file, give its path: {' or '.join(named[:3])}" if named else None
    if "config.json" not in files:
        raise error(f"The {role}'s folder has no config.json.", where=path, facts=[f"it holds: {shown}"], fix=use_gguf)
    weights = weight_files(folder)
    if not weights:
        raise error(
            f"The {role}'s folder has no weights.",
            where=path,
            facts=[f"it holds: {shown}", "needed: model.safetensors, or a sharded model-0000x-of-0000y.safetensors"],
            fix=use_gguf or "download the model's weight files too, or point to the folder that has them",
        )
    _require_all_parts(folder, weights, role=role)
    for file in weights:
        _require_readable(file, role=role)
    _require_no_wrapper([file for file in weights if file.suffix == ".safetensors"], role=role)


def require_adapter(path: str, *, base: str, base_sha256: str | None) -> None:
    """Check before any work that a folder holds the adapters of a teacher, in safetensors.

    Args:
        base: the model that they are put on.
        base_sha256: of its weights; None: not known. Adapters that distillab saved hold that of their base.
    Raises:
        TeacherError: a file is missing or damaged, or the adapters are of another model.
    """
    folder = require_folder(path, whose="teacher's adapter", error=TeacherError)
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise TeacherError(
            "The teacher's adapter lacks a file.",
            where=path,
            facts=[f"missing: {', '.join(missing)}"],
            fix="give a folder that peft has saved; adapters in .bin files, which can hold code, are not read",
        )
    _require_readable(folder / ADAPTER_WEIGHTS, role="teacher")
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as opened:
        recorded = (opened.metadata() or {}).get(BASE_SHA256)
    stated = _base_of_adapter(folder)
    by_hash = recorded is not None and base_sha256 is not None
    # a folder can have been moved, so without a hash the last part of the name is compared
    same = recorded == base_sha256 if by_hash else stated in (None, "") or Path(stated or "").name == Path(base).name
    if not same:
        raise TeacherError(
            "The adapter was trained on another model than teacher.path.",
            where=path,
            facts=[f"its base: {stated}", f"teacher.path: {base}", *(["their weights differ"] if by_hash else [])],
            fix="give its base as teacher.path"
            + ("" if by_hash else "; if it is the same model under another name, write that in adapter_config.json"),
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder in name order: safetensors where there are any, as in loading."""
    for pattern in WEIGHT_FILES:
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return []


def error_of(role: str) -> type[DistillabError]:
    """Return the class of the error: TeacherError for a teacher, ConfigError for any other model."""
    return TeacherError if role == "teacher" else ConfigError


def adapter_error(path: str, *, role: str, base: str | None) -> DistillabError:
    """Return the error of a peft folder that is given as a whole model."""
    model = base or "MODEL"
    use = (
        f"write teacher: {{path: {model}, adapter: {path}}}"
        if role == "teacher"
        else f"write student: {{path: {model}, adapter: {{kind: lora}}}} to train adapters anew"
    )
    return error_of(role)(
        f"The {role}'s folder holds an adapter (adapter_config.json), and an adapter is not a whole model.",
        where=path,
        facts=[f"adapter of: {base}"] if base else [],
        fix=f"{use}; or merge it once and use the merged folder: AutoPeftModelForCausalLM.from_pretrained(folder)"
        ".merge_and_unload().save_pretrained(merged), and save the tokenizer there too",
    )


def _base_of_adapter(folder: Path) -> str | None:
    config = read_json(folder / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return base if isinstance(base, str) else None


def _require_all_parts(folder: Path, weights: list[Path], *, role: str) -> None:
    """Check that a sharded model has its index, and every file that the index names."""
    suffix = weights[0].suffix
    index = folder / next(name for name in _INDEXES if suffix in name)
    there = {file.name for file in weights}
    if there & {"model.safetensors", "pytorch_model.bin"}:
        return
    if not index.is_file():
        raise error_of(role)(
            f"The {role}'s weights are in parts, and their index (which parameter is in which part) is missing.",
            where=str(index),
            facts=[f"there: {', '.join(sorted(there)[:4])}"],
            fix="download the index too",
        )
    content = read_json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise error_of(role)(f"The {role}'s index of weight files has no weight_map.", where=str(index))
    missing = sorted({*named.values()} - there)
    if missing:
        raise error_of(role)(
            f"A part of the {role}'s weights is missing.",
            where=str(folder),
            facts=[f"{len(missing)} of {len({*named.values()})} missing: {', '.join(missing[:4])}"],
            fix="download it too",
        )


def _require_readable(file: Path, *, role: str) -> None:
    """Check by its first bytes that a file is what its name states; of safetensors, that it is not truncated."""
    with file.open("rb") as stream:
        start = stream.read(START_BYTES)
    found, fix = not_downloaded(start) or (None, "download the file again")
    if found is None and start.lstrip().startswith(b"{"):
        found = f"it is JSON: {start[:60].decode('utf-8', 'replace')!r}"
    elif found is None and file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                return
        except (SafetensorError, OSError) as problem:
            found, fix = f"damaged, or cut off: {problem}", "download the file again; compare its size with the hub's"
    elif found is None and not start.startswith((b"PK\x03\x04", b"\x80")):
        found = f"no file that torch.save writes; it starts with {start[:16]!r}"
    if found is not None:
        raise error_of(role)(f"The {role}'s weight file holds no weights.", where=str(file), facts=[found], fix=fix)


def _require_no_wrapper(files: list[Path], *, role: str) -> None:
    """Refuse weights that were saved through a wrapper, which puts its own name before every parameter's."""
    names = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names.extend(opened.keys())
    for prefix, wrapper in _WRAPPERS.items():
        if names and all(name.startswith(prefix) for name in names):
            raise error_of(role)(
                f'The {role}\'s parameters all have "{prefix}" before their names: they were saved through {wrapper}.',
                where=str(files[0]),
                facts=[f"e.g. {names[0]}"],
                fix=f'remove it once: save_file({{name.removeprefix("{prefix}"): w for name, w in '
                'load_file(path).items()}, path, metadata={"format": "pt"})',
            )
