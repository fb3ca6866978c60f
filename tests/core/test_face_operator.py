"""Face-weight matrices: symmetric for any weights, zero rows outside, constants as null space of closed parts."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator


def random_operator(shape: tuple[int, ...], seed: int = 0, sinks: bool = True, n: int = 2) -> FaceOperator:
    g = torch.Generator().manual_seed(seed)
    fluid = torch.rand((n, *shape), generator=g, dtype=torch.float64) > 0.3
    faces = []
    for axis in range(1, len(shape) + 1):
        w = torch.rand((n, *shape), generator=g, dtype=torch.float64) * fluid * fluid.roll(-1, axis)
        w.select(axis, -1).zero_()
        faces.append(w)
    sink = torch.rand((n, *shape), generator=g, dtype=torch.float64) * fluid * float(sinks)
    return FaceOperator(tuple(faces), sink)


@pytest.mark.parametrize("shape", [(17,), (9, 12), (5, 6, 7)])
def test_symmetry_row_sums_and_the_assembled_forms(shape: tuple[int, ...]) -> None:
    A = random_operator(shape)
    u, v = torch.randn((2, 2, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left, right = (u * A.matvec(v)).sum(), (v * A.matvec(u)).sum()
    assert abs(left - right) <= 1e-13 * (u.norm() * A.matvec(v).norm())
    ones = A.matvec(torch.ones_like(u))
    assert torch.allclose(ones, A.sink, atol=1e-13)
    for i in range(2):
        y = torch.from_numpy(A.to_scipy(i) @ v[i].flatten().numpy()).reshape(shape)
        assert torch.allclose(y, A.matvec(v)[i], atol=1e-13)
    masked = torch.where(A.active, v, 0.0)
    assert torch.allclose(A.stencil_operator().matvec(masked), A.matvec(masked), atol=1e-13)
    assert torch.equal(A.select(torch.tensor([1])).matvec(v[1:]), A.matvec(v)[1:])


def test_projection_takes_out_the_mean_of_each_singular_component() -> None:
    A = random_operator((6, 6), sinks=False)
    labels = torch.zeros((2, 6, 6), dtype=torch.int64)
    labels[0, :3], labels[1, 2:, 2:] = 1, 2
    A = FaceOperator(A.faces, A.sink, labels)
    x = A.project(torch.rand((2, 6, 6), dtype=torch.float64))
    assert A.nullspace == "components"
    assert abs(x[0, :3].mean()) < 1e-15 and abs(x[1, 2:, 2:].mean()) < 1e-15
    assert x[0, 3:].mean() > 0.1


def test_bad_weights_are_refused() -> None:
    w, sink = torch.ones(1, 4, 4), torch.ones(1, 4, 4)
    with pytest.raises(UsageError, match="last layer"):
        FaceOperator((w, w), sink)
    w = torch.nn.functional.pad(-torch.ones(1, 3, 3), (0, 1, 0, 1))
    with pytest.raises(UsageError, match="negative"):
        FaceOperator((w, w), sink)
    with pytest.raises(UsageError, match="2 axes"):
        FaceOperator((w.abs(),), sink)
