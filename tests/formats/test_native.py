"""The native file: legal for The Well's checker and loader, and everything that was written is read back."""

import pickle

import h5py
import numpy as np
import pytest
import torch
import yaml
from data_samples import POISSON, moving, recipe
from torch.utils.data import DataLoader
from well_checks import check_well

from sciops.core.dataset import MemoryDataset
from sciops.core.random import case_seed
from sciops.data.generate import file_of, generate, make_chunk
from sciops.data.open import open_dataset
from sciops.data.store import save_dataset
from sciops.data.stored import StoredDataset

well_data = pytest.importorskip("the_well.data")

VARIANTS = {
    "1d-periodic": recipe("p1", {"ndim": 1, "condition": "periodic", "modes": 8}, (16,), "periodic"),
    "2d-dirichlet-node": recipe("p2"),
    "2d-neumann-cell": recipe("p3", {"ndim": 2, "condition": "neumann", "modes": 8}, (8, 12), "cell"),
    "3d-dirichlet": recipe("p4", {"ndim": 3, "modes": 4}, (6, 7, 8)),
    "manufactured": recipe("p5", {"ndim": 2, "exact_solution": "sin(a*x)*exp(y)", "parameters": {"a": [1.0, 3.0]}}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_well_accepts_what_generate_writes(name, tmp_path):
    made = VARIANTS[name]
    paths = generate(made, tmp_path, quiet=True)
    for split, path in paths.items():
        check_well(path)
        loaded = well_data.WellDataset(path=str(tmp_path), well_split_name=split)
        dataset = StoredDataset(path)
        assert len(loaded) == made.splits[split] == len(dataset)
        assert loaded.metadata.spatial_resolution == made.grid.shape
        row = loaded[1]
        ours = torch.cat([dataset.cases([1]).inputs.values[0, 0], dataset.truth([1]).values[0, 0]])
        assert torch.equal(row["constant_fields"].movedim(-1, 0), ours)
        expected = torch.stack(made.grid.mesh(), -1)
        assert torch.allclose(row["space_grid"].double(), expected)
        codes = 2.0 if made.grid.layout[0] == "periodic" else 0.0
        assert torch.equal(row["boundary_conditions"], torch.full((made.grid.ndim, 2), codes))


def test_the_well_normalises_with_our_statistics(native):
    from the_well.data.normalization import ZScoreNormalization

    loaded = well_data.WellDataset(
        path=str(native), well_split_name="train", use_normalization=True, normalization_type=ZScoreNormalization
    )
    rows = torch.stack([loaded[i]["constant_fields"] for i in range(len(loaded))]).double()
    assert rows.mean((0, 1, 2)).abs().max() < 1e-3
    assert (rows.std((0, 1, 2), unbiased=False) - 1).abs().max() < 1e-3


def test_statistics_are_those_of_the_training_split(native):
    stats = yaml.safe_load((native / "stats.yaml").read_text())
    u = open_dataset(native)["train"].truth().values.double()
    assert stats["mean"]["u"] == pytest.approx(float(u.mean()), rel=1e-3, abs=1e-6)
    assert stats["std"]["u"] == pytest.approx(float(u.std(unbiased=False)), rel=1e-3)
    assert stats["rms"]["u"] == pytest.approx(float(u.square().mean().sqrt()), rel=1e-3)
    assert stats["std_delta"]["u"] == 1e-4  # the floor: a steady field has no differences in time


def test_header_says_where_every_number_came_from(native):
    dataset = StoredDataset(native / "data" / "valid" / "small.hdf5")
    cases = dataset.cases()
    assert cases.ids.tolist() == [5, 6]
    assert cases.seeds.tolist() == [case_seed(0, 5), case_seed(0, 6)]
    assert dataset.header.problem["init_args"]["tau"] == 5.0  # defaults are written out
    assert dataset.header.split == "valid" and dataset.header.root_seed == 0
    assert dataset.header.versions["torch"] == torch.__version__
    assert dataset.header.label_method == "exact"
    assert dataset.label_error.shape == (2,)
    with h5py.File(dataset.path) as file:
        assert file["sciops/seed"].dtype == np.uint64
        assert file["sciops/split"].asstr()[:].tolist() == ["valid", "valid"]
        assert file["t0_fields/u"].chunks == (1, 12, 12)
        assert file["t0_fields/u"].compression == "gzip" and file["t0_fields/u"].shuffle


def test_label_error_includes_the_rounding_of_the_stored_type():
    made = make_chunk(recipe(), recipe().make_problem(), [0, 1])
    double = make_chunk(recipe(dtype="float64"), recipe().make_problem(), [0, 1])
    rounding = np.linalg.norm((made.outputs - double.outputs).reshape(2, -1), axis=1)
    rounding /= np.linalg.norm(double.outputs.reshape(2, -1), axis=1)
    assert (made.label_error >= rounding * (1 - 1e-12)).all()
    assert (double.label_error < 1e-12).all()


def test_boundary_data_and_parameters_survive(tmp_path):
    made = VARIANTS["manufactured"]
    chunk = make_chunk(made, made.make_problem(), made.ids("train"))
    path = generate(made, tmp_path, quiet=True)["train"]
    cases = StoredDataset(path).cases()
    assert set(cases.boundary) == {"x0", "x1", "y0", "y1"}
    for name, values in chunk.boundary.items():
        assert np.array_equal(cases.boundary[name].numpy(), values)
    assert np.array_equal(cases.params["a"].numpy(), chunk.params["a"])
    with h5py.File(path) as file:
        assert bool(file["scalars/a"].attrs["sample_varying"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["cell", "periodic"])
def test_time_dependent_data_round_trips_and_is_stored_once(tmp_path, dtype, layout):
    memory = moving(layout=layout)
    memory = MemoryDataset(memory.stored.to(dtype=dtype), memory.answers.to(dtype=dtype))
    path = save_dataset(tmp_path / "data" / "train" / "flow.hdf5", memory, "flow", "train")
    check_well(path)
    stored = StoredDataset(path)
    assert torch.equal(stored.truth().values, memory.truth().values)
    assert torch.equal(stored.cases().inputs.values, memory.cases().inputs.values)
    assert stored.truth().times == memory.truth().times
    assert stored.fingerprint == memory.fingerprint
    loaded = well_data.WellDataset(path=str(tmp_path), well_split_name="train", full_trajectory_mode=True)
    frames = torch.cat([loaded[2][k] for k in ("input_fields", "output_fields")])
    assert torch.equal(frames.movedim(-1, 1), memory.truth([2]).values[0])


def test_fingerprint_is_that_of_the_same_data_in_memory(native):
    stored = StoredDataset(native / "data" / "train" / "small.hdf5")
    memory = MemoryDataset(stored.cases(), stored.truth())
    assert stored.fingerprint == memory.fingerprint
    memory.answers.values[0, 0, 0, 3, 3] += 1
    assert stored.fingerprint != memory.fingerprint


def test_any_index_reads_the_same_rows(native):
    dataset = StoredDataset(native / "data" / "train" / "small.hdf5")
    everything = dataset.truth().values
    for index in (slice(1, 4), slice(None, None, -2), [3, 0, 3, -1], [2], slice(0, 0)):
        rows = list(range(5))[index] if isinstance(index, slice) else index
        assert torch.equal(dataset.truth(index).values, everything[rows])
        assert dataset.cases(index).ids.tolist() == [i % 5 for i in rows]


def test_handle_is_not_pickled_and_workers_read_alike(native):
    dataset = open_dataset(native)["train"]
    before = dataset.truth().values
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._handle is None and torch.equal(copy.truth().values, before)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(dataset)

        def __getitem__(self, i):
            return dataset.truth([i]).values[0]

    for workers in (0, 2):  # the handle of this process is open while the workers fork
        loader = DataLoader(
            Rows(), batch_size=2, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        assert torch.equal(torch.cat(list(loader)), before)


def test_opening_leaves_no_handle_open(native):
    assert all(dataset._handle is None for dataset in open_dataset(native).values())


def test_file_of_puts_splits_where_the_well_wants_them(tmp_path):
    assert file_of(tmp_path, recipe("abc"), "valid") == tmp_path / "data" / "valid" / "abc.hdf5"


def test_poisson_class_is_named_by_its_path(native):
    assert StoredDataset(native / "data" / "test" / "small.hdf5").header.problem["class_path"] == POISSON
