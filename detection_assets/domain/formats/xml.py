"""XML from strangers: no entity is ever expanded, nothing is fetched, and every failure says its line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

from detection_assets.domain.formats.parsed import Unreadable

_CHUNK = 2**18
_REMEDY = "export it again"


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except DefusedXmlException as error:
        what = f"declares entities, which an annotation file has no use for ({type(error).__name__})"
        raise Unreadable(what, "remove the DOCTYPE") from None
    except ElementTree.ParseError as error:
        line, column = error.position
        raise Unreadable(f"not XML, or cut off: {error}", _REMEDY, f"line {line}, column {column + 1}") from None
    except (ValueError, LookupError) as error:  # an encoding that is not known, or that XML does not allow
        raise Unreadable(f"not XML in an encoding we know: {error}", "save it as UTF-8") from None


def tree(data: bytes) -> ElementTree.Element:
    """Parses a small document as a whole.

    Raises:
        Unreadable: It is empty, malformed, cut off, declares entities or is in an unknown encoding.
    """
    if not data.strip():
        raise Unreadable("is empty", _REMEDY)
    with _told():
        return SafeTree.fromstring(data)


def stream(path: Path, target: Any) -> None:
    """Feeds a document of any length to `target`, piece by piece; memory is what the target keeps.

    Args:
        path: The document.
        target: Has `start(tag, attributes)`, `end(tag)`, `data(text)`, `close()`, as ElementTree's `XMLParser` wants.

    Raises:
        Unreadable: As `tree`; or raised by the target.
    """
    parser = SafeTree.DefusedXMLParser(target=target)
    read = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                read += len(piece)
                with _told():
                    parser.feed(piece)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", "check that it exists and is readable") from None
    if not read:
        raise Unreadable("is empty", _REMEDY)
    with _told():
        parser.close()
