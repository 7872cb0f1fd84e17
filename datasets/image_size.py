"""The size that an image file declares, read from its first bytes.

A few bytes can declare gigabytes of pixels, and a decoder allocates and fills them. Formats whose size is
bounded by themselves (WebP) or by the length of the file (PNM) are not read here.
"""

from __future__ import annotations

import struct


def declared_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as declared, or None for another format or a header that cannot be read."""
    try:
        return _declared_size(data)
    except struct.error:
        return None


def is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG ends before its end-of-image marker: OpenCV 4 would fill the rest with grey."""
    if not data.startswith(b"\xff\xd8"):
        return False
    scan = _jpeg_scan(data)[1]
    return scan is None or data.find(b"\xff\xd9", scan) < 0


def _declared_size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG"):
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    if data.startswith(b"\xff\xd8"):
        return _jpeg_scan(data)[0]
    if data.startswith(b"GIF8"):
        width, height = struct.unpack_from("<HH", data, 6)
        return height, width
    if data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(height), abs(width)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff_size(data)
    return _boxed_size(data)


def _jpeg_scan(data: bytes) -> tuple[tuple[int, int] | None, int | None]:
    """The declared size, and where the first scan starts; None where the file ends before."""
    at, size = 2, None
    while at + 9 <= len(data):
        if data[at] != 0xFF or data[at + 1] == 0xDA:
            return size, at
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">HH", data, at + 5)
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size, None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Tags 256 (width) and 257 (height) of the first directory."""
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    found: dict[int, int] = {}
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (256, 257):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 8)
    return (found[257], found[256]) if len(found) == 2 else None


def _boxed_size(data: bytes) -> tuple[int, int] | None:
    """JPEG 2000 keeps the size in a box `ihdr`, AVIF in a box `ispe`."""
    if data[4:8] == b"jP  ":
        height, width = struct.unpack_from(">II", data, data.find(b"ihdr") + 4)
        return height, width
    if data[4:8] == b"ftyp":
        width, height = struct.unpack_from(">II", data, data.find(b"ispe") + 8)
        return height, width
    return None
