"""Bad files: one clear sentence each, and nothing in a file is ever executed."""

import shutil
import sys

import h5py
import numpy as np
import pytest
import yaml
from data_samples import moving

from sciops.core.errors import DataError, UsageError
from sciops.data.convert import convert
from sciops.data.open import open_dataset
from sciops.data.store import save_dataset
from sciops.data.stored import StoredDataset
from sciops.data.verify import verify


@pytest.fixture
def copy(native, tmp_path):
    return shutil.copy(native / "data" / "train" / "small.hdf5", tmp_path / "small.hdf5")


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def refuse(path, message, kind=DataError, code=1):
    for reader in (StoredDataset, open_dataset):
        with pytest.raises(kind, match=message) as caught:
            reader(path)
        text = str(caught.value)
        assert caught.value.exit_code == code and str(path) in text
        assert "\n" not in text and ";" in text  # one sentence: what is wrong; what to do


def test_missing(tmp_path):
    refuse(tmp_path / "none.hdf5", "does not exist")


def test_truncated(copy):
    size = copy.stat().st_size
    with copy.open("r+b") as handle:
        handle.truncate(size // 2)
    refuse(copy, "is truncated")


def test_not_hdf5(tmp_path):
    path = tmp_path / "text.hdf5"
    path.write_text("a,u\n1,2\n")
    refuse(path, "is not an HDF5 file")


def test_empty(tmp_path):
    path = tmp_path / "empty.hdf5"
    path.touch()
    refuse(path, "is not an HDF5 file")


def test_other_schema(copy):
    edit(copy, lambda file: file["sciops"].attrs.modify("schema", 99))
    refuse(copy, "schema 99, but this version reads schema 1")


def test_no_group(copy):
    edit(copy, lambda file: file.__delitem__("sciops"))
    with pytest.raises(DataError, match="no /sciops group"):
        StoredDataset(copy)


def test_unknown_content(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["something"] = 1
    with pytest.raises(DataError, match=r"neither native, The Well nor PDEBench \(it holds something\)"):
        open_dataset(tmp_path / "x.hdf5")


def test_nan(copy):
    edit(copy, lambda file: file["t0_fields/u"].__setitem__((3, 2, 2), np.nan))
    with pytest.raises(DataError, match="'u' of case 3 holds NaN"):
        open_dataset(copy)
    dataset = StoredDataset(copy)
    dataset.truth(slice(0, 3))
    with pytest.raises(DataError, match="case 3 holds NaN"):
        dataset.truth([0, 3])


def test_nan_is_never_written(tmp_path):
    memory = moving()
    memory.answers.values[2, 1] = np.nan
    with pytest.raises(DataError, match="outputs of case 2 hold NaN"):
        save_dataset(tmp_path / "bad.hdf5", memory)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("member", ["t0_fields/u", "sciops/case_id", "dimensions/x"])
def test_missing_members(copy, member):
    edit(copy, lambda file: file.__delitem__(member))
    with pytest.raises(DataError, match="generate it again"):
        StoredDataset(copy)


def test_wrong_shape(copy):
    def shorten(file):
        attributes = dict(file["t0_fields/u"].attrs)
        values = file["t0_fields/u"][:, :-1]
        del file["t0_fields/u"]
        file["t0_fields/u"] = values
        file["t0_fields/u"].attrs.update(attributes)

    edit(copy, shorten)
    refuse(copy, "does not fit 5 cases on 12×12 node")


def test_damaged_chunk(copy):
    with h5py.File(copy) as file:
        chunk = file["t0_fields/u"].id.get_chunk_info(1)
    with copy.open("r+b") as handle:
        handle.seek(chunk.byte_offset)
        handle.write(b"\xff" * chunk.size)
    with pytest.raises(DataError, match="is damaged"):
        open_dataset(copy)


def hostile(path, class_path, **arguments):
    spec = yaml.safe_dump({"class_path": class_path, "init_args": arguments})
    edit(path, lambda file: file["sciops"].attrs.modify("problem", spec))


@pytest.mark.parametrize(
    "class_path", ["os.system", "subprocess.Popen", "builtins.eval", "sciops.data.stored.StoredDataset"]
)
def test_a_class_path_that_is_no_problem_is_refused(copy, class_path):
    hostile(copy, class_path)
    with pytest.raises(UsageError) as caught:
        open_dataset(copy)
    assert class_path in str(caught.value)


def test_reading_never_imports_new_code(copy, tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for class_path in ("hostile_module.Mine", f"{tmp_path}/hostile_module.py:Mine"):
        hostile(copy, class_path)
        for action in (open_dataset, verify, lambda p: convert(p, tmp_path / "out.hdf5", "pdebench")):
            with pytest.raises(UsageError, match="import"):
                action(copy)
    assert not (tmp_path / "executed").exists() and "hostile_module" not in sys.modules
    assert not (tmp_path / "out.hdf5").exists()


def test_yaml_tags_are_not_executed(copy, tmp_path):
    spec = f"!!python/object/apply:os.system ['touch {tmp_path / 'executed'}']"
    edit(copy, lambda file: file["sciops"].attrs.modify("problem", spec))
    with pytest.raises(DataError, match="not plain YAML"):
        open_dataset(copy)
    assert not (tmp_path / "executed").exists()


def test_options_that_do_not_apply(copy):
    with pytest.raises(UsageError, match="Option 'wall' does not apply"):
        open_dataset({"path": str(copy), "wall": "neumann"})
    with pytest.raises(UsageError, match="Did you mean 'layout'"):
        open_dataset({"path": str(copy), "layuot": "cell"})


def test_folder_without_data(tmp_path):
    with pytest.raises(DataError, match="holds no data"):
        open_dataset(tmp_path)


def test_convert_refuses_to_overwrite_its_source(copy):
    with pytest.raises(UsageError, match="own source"):
        convert(copy, copy, "native")
    with pytest.raises(UsageError, match="writes native, well, pdebench"):
        convert(copy, copy.with_name("b.hdf5"), "netcdf")
