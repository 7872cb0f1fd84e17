"""Images on disk: every nasty kind decodes or is named in a DataError, and nothing is counted twice."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeq.datasets.folder import image_hashes, list_images, overlap, read_image, read_images, spread
from edgeq.errors import DataError, EdgeqError


def smooth(height: int = 60, width: int = 90, seed: int = 0) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(Image.fromarray(smooth(seed=seed)), "PNG"))
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1"])
def test_png_modes_equal_pillow(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(smooth()).convert(mode)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture, "PNG"))
    image = read_image(path)
    plain = picture.convert("L") if mode == "LA" else picture
    assert image.shape == (60, 90, 3) and image.dtype == np.uint8
    assert np.array_equal(image, np.asarray(plain.convert("RGB")))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    pixels = np.dstack([smooth(), np.zeros((60, 90), np.uint8)])
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    assert np.array_equal(read_image(tmp_path / "a.png"), smooth())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_become_eight(tmp_path: Path, suffix: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    deep[0, 0], deep[0, 1] = 0, 65535
    data = cv2.imencode(suffix, deep)[1].tobytes()
    (tmp_path / f"a{suffix}").write_bytes(data)
    difference = read_image(tmp_path / f"a{suffix}").astype(int) - (deep[..., ::-1] >> 8)
    assert np.abs(difference).max() <= (1 if suffix == ".tif" else 0)  # libtiff divides by 257


def test_cmyk_jpeg_has_the_right_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(smooth())
    (tmp_path / "a.jpg").write_bytes(encoded(picture.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth()).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(encoded(Image.fromarray(smooth()), "JPEG", quality=95, exif=exif))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")), int)
    assert np.abs(read_image(tmp_path / "a.jpg") - upright).mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"])
def test_one_pixel(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(suffix, np.full((1, 1, 3), 90, np.uint8))[1].tobytes())
    image = read_image(tmp_path / f"a{suffix}")
    assert image.shape == (1, 1, 3) and np.abs(image.astype(int) - 90).max() <= 2


def test_a_very_wide_image(tmp_path: Path) -> None:
    wide = np.zeros((64, 14000, 3), np.uint8)
    wide[:, 13999] = 255
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", wide)[1].tobytes())
    assert np.array_equal(read_image(tmp_path / "a.png"), wide)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm", ".jp2"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_truncated_images_are_refused_by_name(tmp_path: Path, suffix: str, kept: float) -> None:
    data = cv2.imencode(suffix, smooth())[1].tobytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data)
    read_image(path)
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=f"cut{suffix}"):
        read_image(path)


def test_progressive_jpeg_with_a_thumbnail_is_whole_and_noticed_when_cut(tmp_path: Path) -> None:
    """The end marker of the thumbnail inside the header must not pass for the image's own."""
    thumbnail = encoded(Image.fromarray(smooth(16, 16)), "JPEG")
    header = b"\xff\xe5" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    plain = encoded(Image.fromarray(smooth()), "JPEG", progressive=True, quality=90)
    data = plain[:2] + header + plain[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data + b"trailing bytes")
    assert read_image(path).shape == (60, 90, 3)
    path.write_bytes(data[:-100])
    with pytest.raises(DataError, match="truncated"):
        read_image(path)


def test_a_declared_giant_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(DataError, match="60000x60000"):
        read_image(tmp_path / "bomb.png")


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"]),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.integers(1, 4000),
)
def test_damaged_bytes_give_an_image_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[int, int]], kept: int
) -> None:
    data = bytearray(encoded(Image.fromarray(smooth(20, 20)), kind))
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.img"
    path.write_bytes(data[:kept])
    try:
        image = read_image(path)
    except DataError as error:
        assert "damaged.img" in str(error) and "\n" not in str(error)
    else:
        assert image.dtype == np.uint8 and image.shape[2] == 3


def test_folders_are_listed_sorted_with_subfolders_and_links(tmp_path: Path) -> None:
    expected = [write(tmp_path / name) for name in ("a/1.png", "a/2.JPG", "b/c/3.png", "z.png")]
    (tmp_path / "notes.txt").write_text("no image")
    write(tmp_path / ".hidden/4.png")
    write(tmp_path / "b/._5.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list_images(tmp_path) == sorted(expected)
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    assert len(list_images(tmp_path / "linked")) >= 2


def test_depth_maps_beside_images_are_no_images(tmp_path: Path) -> None:
    shown = [write(tmp_path / name) for name in ("images/a/1.png", "set/images/2.png", "set/train/depth/3.png")]
    for name in ("depth/a/1.png", "set/depth/2.png", "set/depth/more/2.png"):
        write(tmp_path / name)
    assert list_images(tmp_path) == sorted(shown)
    assert [path.name for path in list_images(tmp_path / "depth")] == ["1.png"]  # asked for by name
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in list(tmp_path.rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    assert [path.relative_to(tmp_path / "set.zip") for path in list_images(tmp_path / "set.zip")] == [
        path.relative_to(tmp_path) for path in sorted(shown)
    ]


def test_a_list_keeps_its_order_and_is_relative_to_itself(tmp_path: Path) -> None:
    first, second = write(tmp_path / "x/b.png"), write(tmp_path / "x/a.png")
    (tmp_path / "set.txt").write_text(f"./x/b.png\n\n{second}\n")
    assert list_images(tmp_path / "set.txt") == [first, second]


def test_a_zip_is_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for seed, name in enumerate(("test/dog/2.png", "test/cat/1.png", "readme.txt", "__MACOSX/test/._1.png")):
            archive.writestr(name, encoded(Image.fromarray(smooth(seed=seed)), "PNG"))
    paths = list_images(tmp_path / "set.zip")
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["set.zip/test/cat/1.png", "set.zip/test/dog/2.png"]
    assert np.array_equal(read_image(paths[0]), smooth(seed=1))
    with pytest.raises(DataError, match="no such member"):
        read_image(tmp_path / "set.zip" / "test" / "none.png")


def test_a_broken_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match=r"bad\.zip"):
        list_images(tmp_path / "bad.zip")


def test_a_zip_with_a_damaged_member_is_refused_at_the_member(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", encoded(Image.fromarray(smooth()), "PNG"))
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[200] ^= 0xFF
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(tmp_path / "set.zip" / "a.png")


@pytest.mark.parametrize("name", ["empty", "missing", "only.md"])
def test_nothing_to_read_is_a_data_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "only.md").write_text("text")
    with pytest.raises(DataError, match=Path(name).stem):
        list_images(tmp_path / name)


def test_corrupt_files_are_reported_and_the_others_kept(tmp_path: Path) -> None:
    good = [write(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (tmp_path / "empty.png").write_bytes(b"")
    images, rejected = read_images(list_images(tmp_path))
    assert [image.path for image in images] == good
    assert [item.path.name for item in rejected] == ["bad.jpg", "empty.png"]
    assert all(item.reason for item in rejected)
    assert np.array_equal(images[1].read(), smooth(seed=1))
    assert (images[1].height, images[1].width) == (60, 90)


def test_only_corrupt_files_are_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"bad\.png"):
        read_images(list_images(tmp_path))


def test_overlap_is_by_pixels_not_by_name(tmp_path: Path) -> None:
    calibration = [write(tmp_path / "c" / f"{i}.png", seed=i) for i in range(3)]
    same = tmp_path / "e" / "renamed.bmp"
    same.parent.mkdir()
    same.write_bytes(encoded(Image.fromarray(smooth(seed=2)), "BMP"))
    other = write(tmp_path / "e" / "0.png", seed=9)
    pairs = overlap(image_hashes(calibration), image_hashes([same, other]))
    assert pairs == [(calibration[2], same)]


def test_hashes_see_the_shape() -> None:
    from edgeq.datasets.folder import pixel_sha256

    flat = np.zeros((2, 6, 3), np.uint8)
    assert pixel_sha256(flat) != pixel_sha256(flat.reshape(6, 2, 3))


@given(st.integers(1, 500), st.integers(1, 500))
def test_a_limit_spreads_evenly(n: int, limit: int) -> None:
    chosen = spread(n, limit)
    assert len(chosen) == min(n, limit) == len(set(chosen))
    assert chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] < n
    assert spread(n, None) == list(range(n))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_data_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(EdgeqError, match=r"a\.png"):
        read_image(path)
