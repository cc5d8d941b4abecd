"""Check once whether the Hugging Face hub answers, instead of minutes of silent retries."""

from __future__ import annotations

import os
import sys
import urllib.request
from functools import cache
from pathlib import Path
from urllib.error import HTTPError

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from distillab.terminal import echo

_LONGEST_WAIT_S = 10.0


def reach_hub() -> None:
    """Switch to offline mode if the hub does not answer; call it before a hub id is looked up.

    The hub's libraries would retry for 20 seconds a file without a message.
    """
    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        echo(f"note: {constants.ENDPOINT} does not answer; only files in the local cache are used", error=True)
        os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported or started later
        constants.HF_HUB_OFFLINE = True
        datasets = sys.modules.get("datasets.config")
        if datasets is not None:
            datasets.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def was_fetched(repository: str) -> bool:
    """Return whether anything of a model's repository is in the hub's cache."""
    kept = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"), "snapshots")
    return kept.is_dir()


@cache
def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_LONGEST_WAIT_S).close()
    except HTTPError:
        return True  # a refusal is an answer
    except (OSError, ValueError):
        return False
    return True
