"""Which commit of the code runs: from the environment where an image was built with it, else from git."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

TAG = "detection/revision"
"""Tag of a run: the commit of the code that was loaded for it."""
REVISION, REPOSITORY = "DETECTION_REVISION", "DETECTION_REPOSITORY"


@functools.cache
def commit() -> str:
    """The commit, with `-dirty` behind it if files differ from it; "" if nobody knows."""
    told = os.environ.get(REVISION, "")
    return told or _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")


@functools.cache
def repository() -> str:
    """The address of the repository as anybody may know it, or ""."""
    told = os.environ.get(REPOSITORY, "") or _git("remote", "get-url", "origin")
    parts = urlsplit(told)
    # A token in the address of a checkout is a secret; git@host:path is no address.
    return f"https://{parts.hostname}{parts.path}" if parts.scheme in ("https", "http") and parts.hostname else ""


def tags() -> dict[str, str]:
    """The tag of a run, if the commit is known."""
    return {TAG: commit()} if commit() else {}


def _git(*words: str) -> str:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
