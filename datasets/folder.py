"""Images on disk: which there are, what is in them, and which of them are the same.

An image is named by a Path; a member of a zip file is the path of the zip with the member's path behind it.
Decoding gives RGB uint8 with the EXIF rotation applied, whatever the file holds (grey, palette, alpha, CMYK,
16 bits), or a DataError that names the file: a truncated image is never half decoded.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeq.datasets.image_size import declared_size, is_cut_jpeg
from edgeq.errors import DataError

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_MOST_PIXELS = 1 << 28  # a small file may declare an image that fills the memory
_MOST_BYTES = 1 << 30

cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
)  # every failure becomes one DataError; OpenCV would also print its own lines


@dataclass(frozen=True)
class ImageFile:
    """A readable image: its path, its size after rotation, and the SHA-256 of its decoded pixels."""

    path: Path
    height: int
    width: int
    sha256: str

    def read(self) -> npt.NDArray[np.uint8]:
        """RGB uint8 [height, width, 3]; see `read_image`."""
        return read_image(self.path)


@dataclass(frozen=True)
class Rejected:
    """An image that cannot be used, and why."""

    path: Path
    reason: str


def list_images(path: Path) -> list[Path]:
    """The images at `path`, sorted: a folder with its subfolders, a zip file, a text file of paths, or one
    image.

    Lines of a text file are relative to its folder and keep their order. Hidden files are left out, and so are maps
    in depth/ beside images/, which are labels. Raises DataError when there is nothing at `path` or no image in it.
    """
    path = Path(path)
    if path.is_dir():
        found = _without_depth_maps(sorted(_walk(path)))
    elif not path.is_file():
        raise DataError("no such file or folder", where=path)
    elif path.suffix.lower() == ".zip":
        names = _open_zip(path).namelist()
        found = _without_depth_maps(sorted(path / name for name in names if _is_image(Path(name))))
    elif path.suffix.lower() == ".txt":
        lines = read_bytes(path).decode("utf-8", "replace").splitlines()
        found = [path.parent / line.strip() for line in lines if line.strip()]
    else:
        found = [path] if _is_image(path) else []
    if not found:
        raise DataError("no images found", where=path, allowed=" ".join(SUFFIXES))
    return found


def spread(n: int, limit: int | None) -> list[int]:
    """At most `limit` of the indices 0..n-1, evenly spaced, so that sets sorted by class stay balanced.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    if limit is None or limit >= n:
        return list(range(n))
    if limit < 1:
        raise DataError("the limit on images is too small", value=limit, allowed="1 or more")
    return [i * n // limit for i in range(limit)]


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """RGB uint8 [h, w, 3], EXIF rotation applied; 16 bits are reduced to 8, alpha is dropped.

    Raises DataError naming the file when it is missing, damaged, truncated, not an image or above 2^28
    pixels.
    """
    return cast(npt.NDArray[np.uint8], decode(path, cv2.IMREAD_COLOR)[..., ::-1].copy())


def decode(path: Path, flags: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The image at `path` as cv2.imdecode gives it under `flags`. Raises DataError as `read_image` does."""
    data = read_bytes(path)
    problem = _damage(data)
    if problem:
        raise DataError(f"image {problem}", where=path)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError("image cannot be decoded", where=path, value=error.err) from error
    if pixels is None:
        raise DataError("image is damaged, or not an image of 8 or 16 bits", where=path)
    return cast("npt.NDArray[np.uint8] | npt.NDArray[np.uint16]", pixels)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file or of a zip member. Raises DataError when they cannot be read or exceed 1 GiB."""
    try:
        archive = _archive_of(path)
        size = path.stat().st_size if archive is None else _member(archive, path).file_size
        if size > _MOST_BYTES:
            raise DataError("file is too large", where=path, value=f"{size} bytes", allowed=f"{_MOST_BYTES} bytes")
        return path.read_bytes() if archive is None else _open_zip(archive).read(_member(archive, path))
    except (OSError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError("file cannot be read", where=path, value=reason) from error


def read_images(paths: Iterable[Path]) -> tuple[list[ImageFile], list[Rejected]]:
    """Decode every image once: the good ones with their hashes, and the others with the reason.

    Pixels are not kept, so that a large set costs no memory. Raises DataError when no image is left.
    """
    images: list[ImageFile] = []
    rejected: list[Rejected] = []
    for path in paths:
        try:
            pixels = read_image(path)
        except DataError as error:
            rejected.append(Rejected(path, error.what))
        else:
            images.append(ImageFile(path, pixels.shape[0], pixels.shape[1], pixel_sha256(pixels)))
    if not images:
        first = f"{rejected[0].path}: {rejected[0].reason}" if rejected else "an empty list"
        raise DataError("none of the images can be read", value=first)
    return images, rejected


def pixel_sha256(image: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the shape and the pixels: equal for the same picture under another name or container."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def image_hashes(paths: Iterable[Path]) -> dict[Path, str]:
    """`pixel_sha256` of each image. Raises DataError on the first that cannot be read."""
    return {path: pixel_sha256(read_image(path)) for path in paths}


def overlap(calibration: Mapping[Path, str], evaluation: Mapping[Path, str]) -> list[tuple[Path, Path]]:
    """Pairs (calibration image, evaluation image) of equal hashes: accuracy on them is not held out."""
    by_hash = {sha256: path for path, sha256 in calibration.items()}
    return [(by_hash[sha256], path) for path, sha256 in evaluation.items() if sha256 in by_hash]


def class_folders(paths: Sequence[Path]) -> list[str]:
    """Names of the folders that directly hold the images, sorted. Raises DataError when their parents
    differ.
    """
    parents = {path.parent for path in paths}
    above = sorted({parent.parent for parent in parents})
    if len(above) > 1:
        names = ", ".join(str(folder) for folder in above[:4])
        raise DataError("class folders lie in more than one place", value=names, next_step="Give one of these.")
    return sorted(parent.name for parent in parents)


def _is_image(path: Path) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts if part not in (".", ".."))
    return path.suffix.lower() in SUFFIXES and not hidden


def _walk(folder: Path) -> Iterator[Path]:
    """Images below `folder`; links are followed, each real folder once."""
    seen: set[str] = set()
    for parent, children, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            children.clear()
            continue
        seen.add(real)
        children[:] = sorted(name for name in children if not name.startswith((".", "__MACOSX")))
        yield from (Path(parent, name) for name in names if _is_image(Path(name)))


def _without_depth_maps(paths: Sequence[Path]) -> list[Path]:
    """`paths` less what lies below a folder depth/ with images/ beside it (see edgeq/datasets/depth.py)."""
    folders = {path.parent for path in paths}
    above = folders.union(*(folder.parents for folder in folders))
    maps = {folder for folder in above if folder.name == "depth" and folder.with_name("images") in above}
    dropped = {folder for folder in folders if not maps.isdisjoint((folder, *folder.parents))}
    return [path for path in paths if path.parent not in dropped]


def _archive_of(path: Path) -> Path | None:
    """The zip file that `path` leads into, or None for a plain file."""
    if path.exists():
        return None
    return next((p for p in path.parents if p.suffix.lower() == ".zip" and p.is_file()), None)


def _member(archive: Path, path: Path) -> zipfile.ZipInfo:
    try:
        return _open_zip(archive).getinfo(path.relative_to(archive).as_posix())
    except KeyError as error:
        raise DataError("no such member in the zip file", where=path) from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return _open_zip_once(path, path.stat().st_mtime_ns, os.getpid())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError("zip file cannot be opened", where=path, value=error) from error


@lru_cache(maxsize=4)
def _open_zip_once(path: Path, _modified_ns: int, _process: int) -> zipfile.ZipFile:
    """An open archive, kept because its directory of many members is slow to read; one for each process."""
    return zipfile.ZipFile(path)


def _damage(data: bytes) -> str | None:
    """What is visibly wrong with a file before it is decoded."""
    if not data:
        return "is empty"
    if is_cut_jpeg(data):
        return "is truncated"
    height, width = declared_size(data) or (0, 0)
    return f"declares {width}x{height} pixels, above the limit" if width * height > _MOST_PIXELS else None
