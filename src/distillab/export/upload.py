"""Upload an exported folder to the hub."""

from __future__ import annotations

import re
from pathlib import Path

from distillab.errors import ConfigError, StorageError
from distillab.library_errors import library_errors

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def require_repo(repo: str) -> None:
    """Check the form of a repository's name.

    Raises:
        ConfigError: it is not OWNER/NAME.
    """
    if not _REPO.fullmatch(repo):
        raise ConfigError("A repository of the hub is named OWNER/NAME.", where="--repo", facts=[f"got: {repo}"])


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Make the repository where it is missing, upload the folder in one commit, and return its address.

    The token is huggingface_hub's own: the variable HF_TOKEN, or what `hf auth login` has stored.

    Args:
        private: of a new repository; False: as the owner has set it.
    Raises:
        StorageError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    with library_errors(
        StorageError,
        "The folder could not be uploaded.",
        where=repo,
        fix="log in (`hf auth login`, or set HF_TOKEN) with a token that may write there; the folder is whole: "
        f"hf upload {repo} {folder}",
    ):
        api = HfApi(library_name="distillab")
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Student of distillab, with its model card")
    return str(address)
