"""YAML from strangers: at most so large, nothing is built from tags, and every failure says its line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from detection_assets.domain.formats.parsed import Unreadable, decode, read_bytes


def document(path: Path, limit: int, remedy: str) -> Any:
    """Parses a file of at most `limit` bytes.

    Args:
        path: The file.
        limit: Most bytes.
        remedy: What to do about a file whose content makes no sense.

    Raises:
        Unreadable: It is too large, nested too deeply, no YAML, or holds a value that cannot be.
    """
    text = decode(read_bytes(path, limit))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about style, such as an anchor used twice
            return YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise Unreadable("nested too deeply", remedy) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}"
        raise Unreadable(f"not YAML: {getattr(error, 'problem', None) or error}", "mend it", place) from None
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # The parser lets these through for tags, dates and numbers that are well-formed but mean nothing.
        raise Unreadable(f"holds a value that cannot be: {error}", remedy) from None
