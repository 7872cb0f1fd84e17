"""`edgeq degrade`: every image that can be read comes out degraded and recorded, the others are named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from edgeq.calibrate.degrade import at_severity
from edgeq.datasets.folder import pixel_sha256, read_image
from tests.command_line import edgeq, files_below
from tests.pictures import picture


def manifest(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())
    return found


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every odd image that cameras and people produce, two of them damaged."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    plain = picture(64)
    photo = Image.fromarray(plain)
    whole = jpeg(photo)
    (folder / "corrupt.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "gray.png"), plain[..., 0])
    cv2.imwrite(str(folder / "deep.png"), plain.astype(np.uint16) * 257)
    (folder / "cmyk.jpg").write_bytes(jpeg(photo.convert("CMYK")))
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([plain, plain[..., 0]]))
    turned = Image.Exif()
    turned[0x0112] = 6
    (folder / "turned.jpg").write_bytes(jpeg(Image.fromarray(plain[:40]), exif=turned))
    cv2.imwrite(str(folder / "one.png"), np.full((1, 1, 3), 90, np.uint8))
    cv2.imwrite(str(folder / "wide.png"), np.tile(plain[:3], (1, 188, 1))[:, :12000])
    cv2.imwrite(str(folder / "below" / "gray.png"), plain)
    cv2.imwrite(str(folder / "gray.bmp"), plain)
    return folder


GOOD = ["alpha", "below/gray", "cmyk", "deep", "gray.bmp", "gray.png", "one", "turned", "wide"]


@pytest.mark.parametrize(
    "options", [("--noise", 3), ("--study", "jpeg-heavy"), ("--fog", 2, "--motion", 5, "--h264", 4)]
)
def test_odd_images_are_degraded_or_named(odd: Path, options: tuple[object, ...]) -> None:
    ran = edgeq("degrade", "in", *options, "-o", "out")
    assert ran.exit == 0, ran.stderr
    assert [name for name in files_below(Path("out")) if name.endswith(".png")] == [f"{name}.png" for name in GOOD]
    assert "corrupt.jpg" in ran.stdout and "text.png" in ran.stdout
    found = manifest("out")
    assert sorted(Path(item["name"]).name for item in found["rejected"]) == ["corrupt.jpg", "text.png"]
    for record in found["images"]:
        pixels = read_image(Path("out", record["file"]))
        assert record["sha256"] == pixel_sha256(pixels)
        assert record["psnr_db"] is None or 5 < record["psnr_db"] < 50
    shapes = {record["file"]: read_image(Path("out", record["file"])).shape for record in found["images"]}
    assert (
        shapes["turned.png"] == (64, 40, 3) and shapes["wide.png"] == (3, 12000, 3) and shapes["one.png"] == (1, 1, 3)
    )
    assert sum(record["sha256"] != record["source_sha256"] for record in found["images"]) >= 8


def test_two_runs_are_identical_and_a_seed_is_not(odd: Path) -> None:
    for out, seed in (("a", 42), ("b", 42), ("c", 1)):
        assert edgeq("degrade", "in", "--shot", 2, "-o", out, "--seed", seed).exit == 0
    same = [
        Path("a", name).read_bytes() == Path("b", name).read_bytes() for name in files_below(Path("a")) if "." in name
    ]
    assert len(same) == len(GOOD) + 1 and all(same)
    assert Path("a", "deep.png").read_bytes() != Path("c", "deep.png").read_bytes()


def test_kinds_follow_the_light_path(odd: Path) -> None:
    assert edgeq("degrade", "in", "--jpeg", 3, "--blur", 2, "-o", "out").exit == 0
    (record,) = [record for record in manifest("out")["images"] if record["file"] == "deep.png"]
    assert [part["name"] for part in record["degradations"]] == ["blur:2", "jpeg:3"]
    source = read_image(odd / "deep.png")
    wanted = at_severity("jpeg", 3).apply(at_severity("blur", 2).apply(source, "deep.png", 42), "deep.png", 42)
    assert np.array_equal(read_image(Path("out", "deep.png")), wanted)


def test_mixed_leaves_half_alone(odd: Path) -> None:
    assert edgeq("degrade", "in", "--study", "mixed", "-o", "out").exit == 0
    records = manifest("out")["images"]
    untouched = [record for record in records if not record["degradations"]]
    assert 2 <= len(untouched) <= 7
    assert all(record["sha256"] == record["source_sha256"] for record in untouched)


def test_mistakes_leave_nothing_behind(odd: Path) -> None:
    for arguments, words in (
        (("in",), "--noise 3"),
        (("in", "--noise", 9), "9"),
        (("in", "--study", "jpeg-hevy"), "jpeg-heavy"),
        (("in", "--noise", 1, "--study", "blur-low"), "not known"),
        (("nowhere", "--noise", 1), "nowhere"),
        (("in/text.png", "--noise", 1), "text.png"),
        (("in", "--noise", 1, "-o", "in", "--exist-ok"), "folder of the images"),
    ):
        before = files_below(odd.parent)
        ran = edgeq("degrade", *arguments)
        assert ran.exit == 2 and words in ran.stderr, ran.stderr
        assert files_below(odd.parent) == before
