"""Declared sizes of every format that OpenCV and Pillow write, and bombs."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeq.datasets.image_size import declared_size, is_cut_jpeg

PICTURE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".jp2", ".avif", ".gif"])
def test_size_of_what_opencv_writes(suffix: str) -> None:
    if not cv2.haveImageWriter(f"a{suffix}"):
        pytest.skip(f"this OpenCV does not write {suffix}")
    assert declared_size(cv2.imencode(suffix, PICTURE)[1].tobytes()) == (37, 53)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "JPEG2000", "GIF"])
def test_size_of_what_pillow_writes(kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind)
    assert declared_size(stream.getvalue()) == (37, 53)


def test_big_endian_tiff_with_long_values() -> None:
    tags = struct.pack(">HHHII", 2, 256, 4, 1, 40000) + struct.pack(">HHII", 257, 4, 1, 50000)
    assert declared_size(b"MM\0*" + struct.pack(">I", 8) + tags) == (50000, 40000)


def test_other_bytes_have_no_size() -> None:
    assert declared_size(b"RIFF....WEBP") is None and declared_size(b"P6 4 4 255 ") is None
    assert declared_size(b"") is None and declared_size(b"\x89PNG\r\n") is None


@given(
    st.sampled_from([b"\xff\xd8", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\x89PNG", b"\0\0\0\x0cjP  "]),
    st.binary(max_size=80),
)
def test_any_bytes_are_read_without_a_fault(start: bytes, rest: bytes) -> None:
    size = declared_size(start + rest)
    assert size is None or (size[0] >= 0 and size[1] >= 0)
    is_cut_jpeg(start + rest)
