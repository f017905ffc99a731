"""XML as a tree, without what makes XML dangerous.

A document type is refused where it begins: without one there are no entities, so nothing is fetched
and nothing grows (billion laughs, quadratic blowup). Depth and number of elements are bounded.
"""

from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from dncbm.data.annotations.regions import BadAnnotation

_MAX_DEPTH = 16
_MAX_ELEMENTS = 200_000


class _Guard:
    """Feeds a tree and counts."""

    def __init__(self) -> None:
        self.builder = TreeBuilder()
        self.depth = self.elements = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth, self.elements = self.depth + 1, self.elements + 1
        if self.depth > _MAX_DEPTH or self.elements > _MAX_ELEMENTS:
            raise BadAnnotation(
                f"the XML has elements more than {_MAX_DEPTH} deep, or more than {_MAX_ELEMENTS:,}"
            )
        self.builder.start(tag, attributes)

    def end(self, tag: str) -> None:
        self.depth -= 1
        self.builder.end(tag)


def parsed_xml(data: bytes) -> Element:
    """The root element.

    Raises:
        BadAnnotation: damaged, with a document type or entities, too deep or too long.
    """
    guard, parser = _Guard(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = guard.start
    parser.EndElementHandler = guard.end
    parser.CharacterDataHandler = guard.builder.data
    parser.StartDoctypeDeclHandler = _no_document_type
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, UnicodeError, LookupError) as error:
        raise BadAnnotation(f"the file is not XML: {error}") from error
    return guard.builder.close()


def _no_document_type(*_: Any) -> NoReturn:
    raise BadAnnotation("the XML declares a document type, which may hold entities; it is refused")
