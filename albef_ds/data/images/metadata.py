"""Copies of image files without the metadata that some decoders stumble over; the pixels and their orientation stay.

Text, profiles and application data say nothing about the pixels, but Pillow refuses a file for a broken one. `read.py` asks for a
copy only after it has been refused.
"""

from __future__ import annotations

from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf")
_XMP = b"XML:com.adobe.xmp"
_LARGE = 1 << 20  # bytes; Pillow refuses longer texts
_APP0, _APP1, _APP14, _COMMENT, _SCAN = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA
_NEEDED = {_APP0: 16, _APP14: 14}  # least lengths at which libjpeg reads colour information in them


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yields copies of a JPEG or PNG to try instead, the most faithful first; nothing for other formats."""
    if data.startswith(b"\xff\xd8\xff"):
        yield _jpeg(data, keep_turn=True)
        yield _jpeg(data, keep_turn=False)
    elif data.startswith(_PNG):
        yield _png(data)


def _jpeg(data: bytes, *, keep_turn: bool) -> bytes:
    parts, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _SCAN:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:
            place += 1
            continue
        segment = data[place : place + 2 + length]
        application = _APP0 <= marker <= 0xEF or marker == _COMMENT
        needed = length >= _NEEDED[marker] if marker in _NEEDED else marker == _APP1 and keep_turn
        if needed or not application:
            parts.append(segment)
        place += 2 + length
    return b"".join([*parts, data[place:]])


def _png(data: bytes) -> bytes:
    parts, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        size, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        end = place + 12 + size
        turn = name in _PNG_TEXTS and size < _LARGE and data.startswith(_XMP, place + 8)
        if name in _PNG_KEPT or turn or not name[0] & 32:  # a capital letter: needed for the pixels
            parts.append(data[place:end])
        place = end
    return b"".join([*parts, data[place:]])
