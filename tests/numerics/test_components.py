"""Labels of singular components against SciPy's connected components and against hand-made domains."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sciops.core.face_operator import FaceOperator
from sciops.numerics.components import regular_rows, singular_components


def random_system(
    shape: tuple[int, ...], open_share: float, seed: int
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    faces = []
    for axis in range(len(shape)):
        w = (torch.rand((2, *shape), generator=draw) < open_share).double() * torch.rand(
            (2, *shape), generator=draw, dtype=torch.float64
        )
        w.select(axis + 1, -1).zero_()
        faces.append(w)
    sink = (torch.rand((2, *shape), generator=draw) < 0.02).double()
    return tuple(faces), sink


@pytest.mark.parametrize("shape", [(40,), (17, 23), (9, 8, 11)])
@pytest.mark.parametrize("open_share", [0.3, 0.5])
def test_labels_are_those_of_an_independent_search(shape: tuple[int, ...], open_share: float) -> None:
    faces, sink = random_system(shape, open_share, 3)
    found = singular_components(faces, sink).flatten(1).numpy()
    index = np.arange(sink[0].numel()).reshape(shape)
    for i in range(2):
        rows, cols = [], []
        for axis, w in enumerate(faces):
            keep = np.moveaxis(w[i].numpy(), axis, 0)[:-1] > 0
            pairs = np.moveaxis(index, axis, 0)
            rows.append(pairs[:-1][keep])
            cols.append(pairs[1:][keep])
        row, col = np.concatenate(rows), np.concatenate(cols)
        graph = coo_matrix((np.ones(len(row)), (row, col)), shape=(index.size, index.size))
        part = connected_components(graph, directed=False)[1]
        grounded = set(part[sink[i].numpy().ravel() > 0])
        several = np.bincount(part) > 1
        expected, numbers = np.zeros(index.size, dtype=int), {}
        for cell, p in enumerate(part):
            if p not in grounded and several[p]:
                expected[cell] = numbers.setdefault(p, len(numbers) + 1)
        assert np.array_equal(found[i], expected)
        assert expected.max() > 0


def test_no_row_is_left_singular() -> None:
    faces, sink = random_system((8, 8), 0.4, 5)
    A = FaceOperator(faces, sink, singular_components(faces, sink))
    for i in range(2):
        keep = regular_rows(A, i)
        matrix = A.to_scipy(i).toarray()
        assert np.linalg.matrix_rank(matrix) == len(keep)
        assert np.linalg.eigvalsh(matrix[np.ix_(keep, keep)]).min() > 0


def test_means_are_taken_out_by_component() -> None:
    faces, sink = random_system((12, 12), 0.4, 7)
    A = FaceOperator(faces, sink, singular_components(faces, sink))
    x = A.project(torch.randn(2, 12, 12, dtype=torch.float64))
    for k in range(1, int(A.labels.max()) + 1):
        indicator = (A.labels == k).double()
        assert A.matvec(indicator).abs().max() < 1e-14
        assert (x * indicator).flatten(1).sum(1).abs().max() < 1e-13
