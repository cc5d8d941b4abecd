"""Recognise files that a failed or incomplete download left: empty files, git-LFS pointers, web pages."""

from __future__ import annotations

START_BYTES = 512


def not_downloaded(start: bytes) -> tuple[str, str] | None:
    """Return what a file holds instead of its content, and the fix; None if it looks sound.

    Args:
        start: the first `START_BYTES` bytes of the file.

    >>> not_downloaded(b"version https://git-lfs.github.com/spec/v1")[1]
    'run `git lfs pull` in its folder'
    """
    if not start:
        return "it is empty", "download the file again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-LFS pointer, not the content", "run `git lfs pull` in its folder"
    if start.lstrip().startswith((b"<!", b"<html", b"<?xml", b"<HTML")):
        text = start.lstrip()[:60].decode("utf-8", "replace")
        return f"it is a web page: {text!r}", "download the file itself; for a gated model accept its terms and log in"
    return None
