"""XML as stores answer with it: read without document types, in which the known attacks on parsers live."""

from __future__ import annotations

from xml.etree import ElementTree

from slipway_engine.errors import DownloadFailed


def parse(text: bytes, where: str) -> ElementTree.Element:
    """Return an answer's root element. Raises DownloadFailed where it is none, or has a document type."""
    if b"<!DOCTYPE" not in text and b"<!ENTITY" not in text and b"\x00" not in text:
        try:
            return ElementTree.fromstring(text)  # noqa: S314 - has no document type, and the caller bounds it
        except ElementTree.ParseError:
            pass
    raise DownloadFailed(f"{where} answered with something that is no list of files; check the address.")


def text_of(element: ElementTree.Element, name: str) -> str:
    """Return the text of the first child of that name, in any namespace; empty where there is none."""
    return (element.findtext(f".//{{*}}{name}") or "").strip()
