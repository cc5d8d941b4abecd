"""The hub, where it does not answer: said once and at once, instead of minutes of retries in silence."""

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
    """Before a hub id is looked up: where the hub does not answer, have its libraries use their cache alone.

    They would try again for 20 seconds a file, and say nothing.
    """
    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        echo(f"note: {constants.ENDPOINT} does not answer; only what was fetched before is used", error=True)
        os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported or started later
        constants.HF_HUB_OFFLINE = True
        datasets = sys.modules.get("datasets.config")
        if datasets is not None:
            datasets.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def was_fetched(repository: str) -> bool:
    """Whether anything of a model's repository is in the hub's cache."""
    kept = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"), "snapshots")
    return kept.is_dir()


@cache
def _answers(endpoint: str) -> bool:
    asked = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(asked, timeout=_LONGEST_WAIT_S).close()
    except HTTPError:
        return True  # a refusal is an answer
    except (OSError, ValueError):
        return False
    return True
