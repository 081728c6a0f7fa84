"""What the name of a file in the lake says of it: a picture, annotations, hidden, or still being written."""

from __future__ import annotations

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"])
ANNOTATION_SUFFIXES = frozenset(
    [".json", ".jsonl", ".manifest", ".xml", ".txt", ".csv", ".yaml", ".yml", ".names"],
)
ANNOTATION_NAMES = frozenset(["MLTable"])
"""Annotation files that are called so and have no ending."""
PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download")


def suffix(key: str) -> str:
    """The lower-case extension of a key, with its dot; a name that only begins with dots has none."""
    stem, dot, ending = key.rpartition("/")[2].rpartition(".")
    return f".{ending}".lower() if dot and stem.strip(".") else ""


def stem(key: str) -> str:
    """A key without its extension."""
    before, dot, ending = key.rpartition("/")[2].rpartition(".")
    return key[: -len(ending) - 1] if dot and before.strip(".") else key


def is_annotation(key: str) -> bool:
    """Whether a file's name says that it holds annotations."""
    return suffix(key) in ANNOTATION_SUFFIXES or key.rpartition("/")[2] in ANNOTATION_NAMES


def is_transient(key: str) -> bool:
    """Whether a name says that the file is hidden or still being written."""
    name = key.rpartition("/")[2]
    return name.startswith(".") or name.lower().endswith(PARTIAL_SUFFIXES)
