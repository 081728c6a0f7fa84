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
_WHOLE = 2**20
"""Documents larger than this are held against `MAX_DEPTH` as they are parsed; below it nesting costs little."""

MAX_DEPTH = 100
"""Elements within elements. No annotation file has ten; the parser keeps a note of each that is open."""

MAX_TAG = 8 * 2**20
"""Bytes of one element's attributes. The parser begins anew at every piece until the element is whole."""

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


class _Shallow(ElementTree.TreeBuilder):
    """Builds a tree that is not deep."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: Any, attrs: Any, /) -> ElementTree.Element:
        self._depth += 1
        check_depth(self._depth)
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def check_depth(depth: int) -> None:
    """Refuses elements within elements without end.

    Raises:
        Unreadable: There are more than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise Unreadable(f"elements within elements, more than {MAX_DEPTH} deep", _REMEDY)


def tree(data: bytes) -> ElementTree.Element:
    """Parses a small document as a whole.

    Raises:
        Unreadable: It is empty, malformed, cut off, declares entities or is in an unknown encoding.
    """
    if not data.strip():
        raise Unreadable("is empty", _REMEDY)
    with _told():
        if len(data) <= _WHOLE:
            return SafeTree.fromstring(data)
        parser = SafeTree.DefusedXMLParser(target=_Shallow())
        parser.feed(data)
        return parser.close()


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
                if read - parser.parser.CurrentByteIndex > MAX_TAG:
                    raise Unreadable(f"an element of more than {MAX_TAG // 2**20} MiB", _REMEDY)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}", "check that it exists and is readable") from None
    if not read:
        raise Unreadable("is empty", _REMEDY)
    with _told():
        parser.close()
