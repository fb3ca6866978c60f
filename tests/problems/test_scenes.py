"""Scenes, cut cells and voxels: shares against exact areas, files against known solids, bad input in one sentence."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.random import generator
from sciops.problems.cut_cells import axes_of, openness, segment_share, triangle_share
from sciops.problems.pressure import Pressure
from sciops.problems.scenes import Ball, Scene, draw_scene, parameters_of, random_balls
from sciops.problems.voxels import read_stl, voxelise

NOTHING = torch.zeros((3, 1, 1, 1), dtype=torch.float64)


def cells(n: int, ndim: int) -> Grid:
    return Grid.box(n, ndim=ndim, layout="cell")


def tetrahedron_surface(n: int) -> np.ndarray:
    """A sphere of radius 0.3 around (0.5, 0.5, 0.5) as n × 2n × 2 triangles."""
    u, v = np.linspace(0, np.pi, n + 1), np.linspace(0, 2 * np.pi, 2 * n + 1)
    v[-1] = 0.0
    p = 0.3 * np.stack([np.sin(u)[:, None] * np.cos(v), np.sin(u)[:, None] * np.sin(v), np.cos(u)[:, None] + 0 * v], -1)
    p = (p + 0.5).astype(np.float32).astype(np.float64)
    a, b, c, d = p[:-1, :-1], p[1:, :-1], p[1:, 1:], p[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], 2).reshape(-1, 3, 3), np.stack([a, c, d], 2).reshape(-1, 3, 3)])


def write_binary(path: Path, triangles: np.ndarray) -> None:
    facet = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    data = np.zeros(len(triangles), facet)
    data["corners"] = triangles
    path.write_bytes(b" " * 80 + len(triangles).to_bytes(4, "little") + data.tobytes())


def write_ascii(path: Path, triangles: np.ndarray) -> None:
    lines = ["solid thing"]
    for t in triangles:
        lines += ["facet normal 0 0 0", "outer loop", *(f"vertex {x!r} {y!r} {z!r}" for x, y, z in t.tolist())]
        lines += ["endloop", "endfacet"]
    path.write_text("\n".join([*lines, "endsolid thing"]))


def test_shares_of_linear_functions_are_areas() -> None:
    draw = torch.Generator().manual_seed(1)
    a, b, c = torch.randn((3, 200), generator=draw, dtype=torch.float64)
    t = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    counted = (a[:, None] * (1 - t) + b[:, None] * t > 0).double().mean(1)
    assert (segment_share(a, b) - counted).abs().max() < 1 / 300
    s, t = torch.meshgrid(t, t, indexing="ij")
    inside = s + t < 1
    s, t = s[inside], t[inside]
    counted = (a[:, None] * (1 - s - t) + b[:, None] * s + c[:, None] * t > 0).double().mean(1)
    assert (triangle_share(a, b, c) - counted).abs().max() < 1 / 100
    for x, exact in ((1.0, 1.0), (0.0, 0.0), (-1.0, 0.0)):
        level = torch.full((1,), x, dtype=torch.float64)
        assert float(triangle_share(level, level, level)) == exact == float(segment_share(level, level))


@pytest.mark.parametrize("ndim", [2, 3])
def test_open_area_around_a_ball_converges_at_second_order(ndim: int) -> None:
    exact = 1 - (math.pi * 0.3**2 if ndim == 2 else 4 / 3 * math.pi * 0.3**3)
    ball = Ball((0.51, 0.49, 0.5)[:ndim], 0.3, (0.0,) * ndim)
    scene = Scene(ndim, (ball,), ((True, True),) * ndim, NOTHING, NOTHING[0])
    errors = []
    for n in (16, 64):
        shares = openness(scene, cells(n, ndim), True)
        # Faces with normal x fill planes x = const; the mean over planes (trapezoid) is the volume.
        sums = shares[0].flatten(1).mean(1)
        errors.append(abs(float((sums[1:-1].sum() + 0.5 * (sums[0] + sums[-1])) / n) - exact))
    assert errors[1] < errors[0] / 10
    assert errors[1] < 1e-3


def test_random_balls_cover_their_share() -> None:
    for ndim, n in ((2, 256), (3, 48)):
        for seed in range(3):
            balls = random_balls(generator(seed), ndim, 0.2, 0.04, 0.12)
            scene = Scene(ndim, balls, ((True, True),) * ndim, NOTHING, NOTHING[0])
            level = scene.solid(axes_of(cells(n, ndim), (False,) * ndim), 3 / n)
            # One more ball than needed covers at most its own volume.
            most = math.pi * 0.12**2 if ndim == 2 else 4 / 3 * math.pi * 0.12**3
            assert 0.19 < float((level <= 0).double().mean()) < 0.21 + most


def test_distances_near_solids_do_not_depend_on_the_band() -> None:
    table = parameters_of("plume", {"obstacles": 4})
    scene = draw_scene("plume", table, 3, 2)
    axes = axes_of(cells(100, 2), (False, False))
    narrow, wide = scene.solid(axes, 0.03), scene.solid(axes, 2.0)
    assert torch.equal(narrow, wide.clamp(max=0.03))
    assert float((wide < 0).double().mean()) > 0.01


def test_moving_solids_are_one_sequence_with_the_stated_velocity() -> None:
    frames = 4000
    table = parameters_of("moving_solids", {"frames": frames})
    now, later, end = (draw_scene("moving_solids", table, 7 * frames + k, 2) for k in (10, 11, frames - 1))
    other = draw_scene("moving_solids", table, 8 * frames + 10, 2)
    assert now.solids != other.solids
    for a, b, last in zip(now.solids, later.solids, end.solids, strict=True):
        assert a.radius == b.radius
        for j in range(2):
            assert (b.centre[j] - a.centre[j]) * frames == pytest.approx(a.velocity[j], abs=0.02)
            assert abs(last.centre[j] - a.centre[j]) < 0.15  # nearly one period on


@pytest.mark.parametrize("write", [write_binary, write_ascii])
def test_a_voxelised_sphere_has_its_volume(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "ball.stl", tetrahedron_surface(24))
    triangles = read_stl(tmp_path / "ball.stl")
    assert triangles.shape == (24 * 48 * 2, 3, 3)
    volume = abs(np.linalg.det(triangles - 0.5).sum()) / 6  # of the polyhedron, by the divergence theorem
    for n in (16, 48):
        found = float(voxelise(triangles, cells(n, 3)).mean())
        assert found == pytest.approx(volume, rel=2 / n)


def test_a_voxelised_cube_is_exact(tmp_path: Path) -> None:
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * 0.5 + 0.25
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = np.array([corners[[q[0], q[i], q[i + 1]]] for q in quads for i in (1, 2)])
    inside = voxelise(triangles, cells(16, 3))
    expected = np.zeros((16, 16, 16), dtype=bool)
    expected[4:12, 4:12, 4:12] = True
    assert np.array_equal(inside, expected)
    write_binary(tmp_path / "cube.stl", triangles)
    problem = Pressure(ndim=3, scene="voxels", parameters={"file": str(tmp_path / "cube.stl")})
    fluid = problem.sample([0], cells(16, 3)).input("fluid")[0].numpy()
    assert np.array_equal(fluid == 0, expected)
    with pytest.raises(UsageError, match="not closed"):
        voxelise(triangles[:-1], cells(16, 3))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_of_the_grids_shape_gives_its_voxels(tmp_path: Path, suffix: str) -> None:
    solid = torch.rand((12, 10), generator=torch.Generator().manual_seed(0)).numpy() < 0.2
    path = tmp_path / f"solid.{suffix}"
    np.save(path, solid) if suffix == "npy" else np.savez(path, solid=solid)
    problem = Pressure(scene="voxels", parameters={"file": str(path), "pockets": "kept"})
    cases = problem.sample([0], Grid.box((12, 10), layout="cell"))
    isolated = (cases.problem.matrix(cases).diagonal()[0] == 0).numpy() & ~solid
    assert np.array_equal(cases.input("fluid")[0].numpy() == 0, solid | isolated)
    assert isolated.sum() < 5
    finer = cases.on(Grid.box((36, 30), layout="cell"))
    # The centre of a voxel is the centre of the middle one of its 3 × 3 parts.
    assert np.array_equal(finer.input("fluid")[0, 1::3, 1::3].numpy() == 0, solid)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scene": "boxes"}, "scene must be one of"),
        ({"ndim": 1}, "ndim must be 2 or 3"),
        ({"parameters": {"shares": 0.1}}, "no parameter 'shares'"),
        ({"parameters": {"share": 0.9}}, "between 0 and 0.6"),
        ({"parameters": {"top": "open"}}, "air or solid"),
        ({"parameters": {"smallest": 0.3, "largest": 0.1}}, "smallest"),
        ({"parameters": {"share": "much"}}, "must be a number"),
        ({"scene": "moving_solids", "parameters": {"frames": 0}}, "frames must be at least 1"),
        ({"scene": "voxels"}, "needs parameters"),
        ({"forcing": "black"}, "forcing must be one of"),
        ({"contrast": -1.0}, "contrast"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Pressure(**arguments)
    assert "\n" not in str(caught.value)


def test_bad_files_and_grids_are_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.npy").write_text("nothing")
    np.save(tmp_path / "two.npy", np.full((4, 4), 2.0))
    (tmp_path / "flat.stl").write_text("solid flat\nendsolid")
    for name, ndim, words in (
        ("absent.npy", 2, "no file"),
        ("broken.npy", 2, "cannot be read"),
        ("two.npy", 2, "from 0 to 1"),
        ("flat.stl", 3, "no STL"),
        ("flat.stl", 2, "three dimensions"),
    ):
        problem = Pressure(ndim=ndim, scene="voxels", parameters={"file": str(tmp_path / name)})
        with pytest.raises(UsageError, match=words):
            problem.sample([0], cells(8, ndim))
    with pytest.raises(UsageError, match="layout='cell'"):
        Pressure().sample([0], Grid.box(8, ndim=2))
    with pytest.raises(UsageError, match="ndim=2"):
        Pressure().sample([0], cells(8, 3))
