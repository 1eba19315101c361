"""Reads Debian's openclipart: PNG files in one tree; titles, descriptions and keywords in the SVG files of another.

The text is in the RDF block of each SVG. It is read with regular expressions, not an XML parser, because hundreds of these
files are not well-formed.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator

from data_tools.files.storage import open_source
from data_tools.readers import folders
from data_tools.readers.source import NO_CAPTION, Problems, Record, SourceSpec, caption_list

_BLOCK = re.compile(r"<metadata\b.*?</metadata>", re.DOTALL)
_TITLE = re.compile(r"<dc:title[^>]*>(.*?)</dc:title>", re.DOTALL)
_DESCRIPTION = re.compile(r"<dc:description[^>]*>(.*?)</dc:description>", re.DOTALL)
_SUBJECT = re.compile(r"<dc:subject[^>]*>(.*?)</dc:subject>", re.DOTALL)
_ITEM = re.compile(r"<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
_LICENCE = re.compile(r"<cc:license[^>]*rdf:resource=\"([^\"]*)\"")
_TAG = re.compile(r"<[^>]*>")

parts = folders.parts


def read(spec: SourceSpec, part: str, problems: Problems) -> Iterator[Record]:
    """One record per PNG; captions are title, description and keywords of the SVG at the same path in `second`."""
    second = spec.second or part.rstrip("/").removesuffix("png") + "svg"
    for listed in folders.walk_images(part, problems):
        path = os.path.join(part, listed)
        source = os.path.join(second, os.path.splitext(listed)[0] + ".svg")
        try:
            with open_source(source) as file:
                text = file.read().decode(errors="replace")
        except OSError:
            problems.add("no SVG beside the picture", listed)
            text = ""
        captions, licence = read_rdf(text)
        extra, missing = {"licence": licence} if licence else {}, "" if captions else NO_CAPTION
        yield Record(listed, path, -1, -1, captions, "", missing, extra)


def read_rdf(svg: str) -> tuple[list[str], str]:
    """Captions (title, description and comma-separated keywords, if present) and licence URL in an SVG file's text."""
    match = _BLOCK.search(svg)
    if match is None:
        return [], ""
    block = match[0]
    subject = _SUBJECT.search(block)
    keywords = [_plain(item) for item in _ITEM.findall(subject[1])] if subject else []
    without_subject = _SUBJECT.sub("", block)
    texts = [_plain(found[1]) for pattern in (_TITLE, _DESCRIPTION) if (found := pattern.search(without_subject))]
    texts.append(", ".join(word for word in keywords if word))
    licence = _LICENCE.search(block)
    return list(dict.fromkeys(caption_list(texts))), licence[1] if licence else ""


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())
