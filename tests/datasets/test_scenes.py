"""Rendered scenes: the same bytes everywhere, boxes that are the extent of what is seen, true depth, usual folders."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edgeq.datasets.open import open_dataset
from edgeq.datasets.scenes import CLASSES, KINDS, Scene, annotate, classification_scene, render, write_dataset
from edgeq.datasets.scenes_objects import CLUTTER, box, build, pyramid
from edgeq.datasets.scenes_render import Sight, aim, look
from edgeq.datasets.scenes_shapes import Frustum, Part, Polyhedron, Shape, Sphere, Tube
from edgeq.datasets.scenes_stage import HALF_WIDTH, Solid, Stage, crowded_stage
from edgeq.errors import OutputError, UsageError

ROOT = Path(__file__).resolve().parents[2]
# What a machine of another maker, with other versions of numpy, rendered too.
KNOWN_DIGEST = "627a1eea4584ca608fc3d24bb071aa9beb6dfd86b71688cbea93b622df6a6d53"
DIGEST_PROGRAM = """
import hashlib
from edgeq.datasets.scenes import classification_scene, render
digest = hashlib.sha256()
for index in range(40):
    scene = render(9, index)
    for part in (scene.image, scene.boxes, scene.depth, classification_scene(9, index)[0]):
        digest.update(part.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render(4, index, 96) for index in range(40)]


def generator(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))


def digest(scene: Scene) -> str:
    parts = (scene.image, scene.boxes, scene.labels, scene.depth, scene.instances)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def see(stage: Stage, size: int) -> Sight:
    steps = np.arange(size, dtype=np.float32)
    return look(stage, aim(stage.camera, np.tile(steps, size), np.repeat(steps, size), size), size)


def test_another_process_renders_the_known_bytes() -> None:
    done = subprocess.run([sys.executable, "-c", DIGEST_PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == KNOWN_DIGEST


def test_a_scene_does_not_depend_on_the_others() -> None:
    forward = [digest(render(3, index, 48)) for index in range(6)]
    backward = [digest(render(3, index, 48)) for index in reversed(range(6))]
    assert forward == backward[::-1]
    assert len({*forward, *(digest(render(8, index, 48)) for index in range(6))}) == 12


def test_portraits_of_a_seed_are_not_its_crowded_scenes() -> None:
    image, label = classification_scene(3, 0, 48)
    again, same = classification_scene(3, 0, 48)
    assert label == same
    assert np.array_equal(image, again)
    assert not np.array_equal(image, render(3, 0, 48).image)


def test_images_use_the_range_of_levels(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (96, 96, 3)
        assert len(np.unique(scene.image)) > 60


def test_boxes_are_the_extents_of_the_instances(scenes: list[Scene]) -> None:
    compared = 0
    for scene in scenes:
        assert sorted(set(np.unique(scene.instances)) - {-1}) == list(range(len(scene.boxes)))
        for row, (x0, y0, x1, y1) in enumerate(scene.boxes.astype(int)):
            mask = scene.instances == row
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0].any()
            assert mask[y1 - 1].any()
            assert mask[:, x0].any()
            assert mask[:, x1 - 1].any()
            compared += 1
    assert compared > 100


def test_every_class_appears_and_counts_vary(scenes: list[Scene]) -> None:
    assert {int(label) for scene in scenes for label in scene.labels} == set(range(len(CLASSES)))
    assert len({len(scene.labels) for scene in scenes}) >= 5
    assert len({classification_scene(4, index, 16)[1] for index in range(60)}) == len(CLASSES)


def test_depth_is_finite_positive_and_varied(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.depth.dtype == np.float32
        assert np.isfinite(scene.depth).all()
        assert 0.3 < scene.depth.min() < scene.depth.max() < 10
        assert len(np.unique(scene.depth)) > 1000


def test_a_larger_image_shows_the_same_scene() -> None:
    small, large = render(4, 2, 64), render(4, 2, 192)
    assert np.median(np.abs(small.depth - large.depth[1::3, 1::3])) < 1e-4
    assert abs(small.image.mean() - large.image.mean()) < 2


def project(stage: Stage, point: tuple[float, float, float], size: int) -> tuple[float, float, float]:
    """Column, row and depth of a world point, by the textbook camera."""
    x, y, z = point[0], point[1], point[2] - stage.camera.height
    ahead = y * stage.camera.cosine - z * stage.camera.sine
    below = -y * stage.camera.sine - z * stage.camera.cosine
    scale = size / 2 / HALF_WIDTH
    return size / 2 + scale * x / ahead, size / 2 + scale * below / ahead, ahead


def corners_in_world(body: Solid) -> list[tuple[float, float, float]]:
    shape = body.parts[0].shape
    assert isinstance(shape, Polyhedron)
    a, b, c = body.axes
    return [
        tuple(o + p[0] * i + p[1] * j + p[2] * k for o, i, j, k in zip(body.centre, a, b, c, strict=True))  # type: ignore[misc]
        for p in shape.corners
    ]


def test_a_box_is_where_its_corners_project() -> None:
    size, compared = 160, 0
    for index in range(30):
        stage = crowded_stage(generator(6, index))
        for body in stage.solids:
            if body.kind not in ("box", "pyramid"):
                continue
            places = np.array([project(stage, corner, size) for corner in corners_in_world(body)])
            low, high = places[:, :2].min(axis=0), places[:, :2].max(axis=0)
            if low.min() < 1 or high.max() > size - 1:
                continue
            rows, columns = np.nonzero(see(replace(stage, solids=(body,)), size).solid.reshape(size, size) == 0)
            assert columns.min() == pytest.approx(low[0], abs=1.5)
            assert columns.max() + 1 == pytest.approx(high[0], abs=1.5)
            assert rows.min() == pytest.approx(low[1], abs=1.5 if body.kind == "box" else 3)  # a pyramid's tip is thin
            assert rows.max() + 1 == pytest.approx(high[1], abs=1.5)
            compared += 1
    assert compared > 10


def test_depth_of_a_ball_and_of_the_floor_before_it() -> None:
    size, stage = 161, crowded_stage(generator(6, 1))
    camera = stage.camera
    ahead = 2.0
    centre = (0.0, ahead * camera.cosine, camera.height - ahead * camera.sine)
    ball = Solid("ball", (Part(Sphere(0.3)),), (), centre, ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)), 0.3)
    depth = see(replace(stage, solids=(ball,)), size).depth.reshape(size, size)
    assert depth[80, 80] == pytest.approx(ahead - 0.3, abs=1e-5)
    down = camera.sine + HALF_WIDTH * camera.cosine * (160 / 161)  # the lowest row's fall per metre of depth
    assert depth[160, 80] == pytest.approx(camera.height / down, rel=1e-5)


def test_what_is_mostly_hidden_gets_no_box() -> None:
    stage = crowded_stage(generator(6, 1))
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    coats = stage.solids[0].coats

    def ball(x: float, y: float, radius: float) -> Solid:
        return Solid("ball", (Part(Sphere(radius)),), coats, (x, y, radius), axes, radius)

    def boxes(*solids: Solid) -> int:
        crowd = replace(stage, solids=solids)
        return len(annotate(crowd, see(crowd, 96), 96)[0])

    assert boxes(ball(0, 2, 0.3), ball(0, 3, 0.3)) == 2
    assert boxes(ball(0, 2, 0.3), ball(0, 2.6, 0.05)) == 1
    assert boxes(ball(0, 2, 0.3), ball(0.9, 3, 0.02)) == 1  # too small to count


def shapes() -> list[Shape]:
    return [
        Sphere(0.3), Frustum(0.2, 0.2, 0.4), Frustum(0.3, 0.0, 0.3), Frustum(0.1, 0.25, 0.2), Tube(0.2, 0.3, 0.1),
        box(0.1, 0.2, 0.3), pyramid(0.3, 0.25),
        *(part.shape for kind in (*CLASSES, *CLUTTER) for part in build(kind, lambda low, high: (low + high) / 2)),
    ]  # fmt: skip


def rays_from_outside(count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Origins on a sphere of 3 m, and directions to points about the centre: [3, count] each."""
    rng = np.random.default_rng(0)
    origins = rng.normal(size=(3, count))
    origins *= 3 / np.sqrt((origins**2).sum(axis=0))
    return origins.astype(np.float32), (rng.uniform(-0.4, 0.4, (3, count)) - origins).astype(np.float32)


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: type(shape).__name__)
def test_rays_meet_the_surface_from_outside(shape: Shape) -> None:
    origins, rays = rays_from_outside(4000)
    t = shape.hit(tuple(origins), tuple(rays))  # type: ignore[arg-type]
    hit = np.isfinite(t)
    assert hit.sum() > 20
    points = origins[:, hit] + rays[:, hit] * t[hit]
    normals = np.stack(np.broadcast_arrays(*shape.normal(tuple(points))))  # type: ignore[arg-type]
    assert np.allclose((normals**2).sum(axis=0), 1, atol=1e-4)
    assert ((normals * rays[:, hit]).sum(axis=0) < 1e-2).mean() > 0.995
    assert np.sqrt((points**2).sum(axis=0)).max() <= shape.reach() + 1e-4
    again = shape.hit(tuple(points + normals * 2e-3), tuple(-rays[:, hit]))  # type: ignore[arg-type]
    assert np.isinf(again).mean() > 0.6  # the way back to the origin is free, except out of a ring's hole


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: type(shape).__name__)
def test_the_lowest_point_is_on_the_surface(shape: Shape) -> None:
    origins, rays = rays_from_outside(20000)
    t = shape.hit(tuple(origins), tuple(rays))  # type: ignore[arg-type]
    points = (origins + rays * np.where(np.isfinite(t), t, 0))[:, np.isfinite(t)]
    for up in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.48, 0.6, 0.64), (0.6, 0.0, -0.8)):
        heights = up[0] * points[0] + up[1] * points[1] + up[2] * points[2]
        assert heights.min() >= shape.lowest(up) - 1e-4
        assert heights.min() <= shape.lowest(up) + 0.25 * shape.reach()


def test_solids_stand_on_the_floor_inside_the_room() -> None:
    for index in range(20):
        stage = crowded_stage(generator(5, index))
        for body in stage.solids:
            up = (body.axes[0][2], body.axes[1][2], body.axes[2][2])
            assert body.centre[2] + min(part.lowest(up) for part in body.parts) == pytest.approx(0, abs=1e-9)
            for axis in body.axes:
                assert math.sqrt(sum(c * c for c in axis)) == pytest.approx(1)
            for wall in stage.planes[1:]:
                assert sum(n * c for n, c in zip(wall.normal, body.centre, strict=True)) > wall.offset


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_folder_opens_as_users_data(tmp_path: Path, kind: str) -> None:
    folder = write_dataset(tmp_path / "new" / "set", count=5, seed=4, size=64, kind=kind)
    data = open_dataset(folder)
    assert data.task == kind
    assert len(data.samples) == 5
    for index, sample in enumerate(data.samples):
        image = cv2.imread(str(sample.path))
        assert image is not None
        expected = classification_scene(4, index, 64)[0] if kind == "classify" else render(4, index, 64).image
        assert np.array_equal(image[..., ::-1], expected)
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_written_answers_are_the_scenes(tmp_path: Path) -> None:
    scene = render(4, 0, 64)
    detect = write_dataset(tmp_path / "a", 1, 4, 64, "detect")
    rows = np.loadtxt(detect / "labels" / "000000.txt", ndmin=2)
    low, high = rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2
    assert len(rows) > 1
    assert np.array_equal(rows[:, 0].astype(int), scene.labels)
    assert np.allclose(np.hstack([low, high]) * 64, scene.boxes, atol=1e-3)
    depth = write_dataset(tmp_path / "b", 1, 4, 64, "depth")
    millimetres = cv2.imread(str(depth / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED)
    assert millimetres is not None
    assert millimetres.dtype == np.uint16
    assert np.abs(millimetres / 1000 - scene.depth).max() <= 0.0005 + 1e-6
    classify = write_dataset(tmp_path / "c", 3, 4, 64, "classify")
    labels = [classification_scene(4, index, 64)[1] for index in range(3)]
    lines = (classify / "labels.csv").read_text().splitlines()
    assert lines == ["file,class", *(f"images/{i:06d}.png,{label}" for i, label in enumerate(labels))]


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 64), (0, -1, 64), (0, 0, 8)])
def test_what_cannot_be_rendered_is_refused(seed: int, index: int, size: int) -> None:
    with pytest.raises(UsageError, match="scene cannot be rendered"):
        render(seed, index, size)
    with pytest.raises(UsageError, match="scene cannot be rendered"):
        classification_scene(seed, index, size)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="allowed: detect, classify, depth"):
        write_dataset(tmp_path / "x", 1, 0, 64, "detection")
    with pytest.raises(UsageError, match="at least one"):
        write_dataset(tmp_path / "x", 0, 0, 64, "detect")
    with pytest.raises(UsageError, match="size 3"):
        write_dataset(tmp_path / "x", 1, 0, 3, "detect")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="folder exists"):
        write_dataset(tmp_path, 1, 0, 64, "detect")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_dataset(tmp_path / "file" / "x", 1, 0, 64, "detect")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
