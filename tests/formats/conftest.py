"""Data that the format tests share."""

import pytest
from data_samples import recipe

from sciops.data.generate import generate


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """Folder of a small 2-D Dirichlet dataset on nodes."""
    folder = tmp_path_factory.mktemp("native") / "small"
    generate(recipe(), folder, quiet=True)
    return folder
