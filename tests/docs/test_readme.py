import re
from pathlib import Path

import pytest

from sciops.compare.check import check
from sciops.compare.plan import find

README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLES = {m[2]: m[1] for m in re.finditer(r"```python\n(# (my_\w+\.py)\n.*?)```", README, re.S)}


@pytest.mark.parametrize(("file", "name"), [("my_problem.py", "ReactionDiffusion"), ("my_solver.py", "Jacobi")])
def test_the_examples_keep_the_contract(file, name, tmp_path):
    (tmp_path / file).write_text(EXAMPLES[file])
    failed = [f"{r.name}: {r.message}" for r in check(f"{tmp_path / file}:{name}") if not r.passed]
    assert not failed


def test_every_comparison_and_file_that_is_named_exists():
    root = Path(__file__).parents[2]
    for name in re.findall(r"sciops compare (\w+)", README):
        assert find(name).is_file()
    for path in re.findall(r"(?:datasets|experiments)/[\w/]+\.(?:yaml|md)", README):
        assert (root / path).is_file(), path
