"""1,000 calls from C under the sanitisers: no leak of ours, no access outside what was allocated."""

import os
from pathlib import Path

import pytest
from capi_support import host, missing, run, stand_in_library, write_artefact

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(bool(missing("g++", "gcc")), reason="no C and C++ compiler (g++, gcc) here"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sanitised")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    return host(folder, stand_in_library(folder, *flags), *flags)


@pytest.mark.parametrize("kind", ["operator", "direction", "multigrid"])
def test_a_thousand_calls_with_address_sanitizer(program: Path, tmp_path: Path, kind: str) -> None:
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1"}
    path = write_artefact(tmp_path / "a", kind)
    assert "calls 1000" in run(str(program), str(path), "21", "1000", env=environment)


@pytest.mark.parametrize("flag", ["address", "leak"])
def test_the_sanitizers_see_leaks(tmp_path: Path, flag: str) -> None:
    """Otherwise the tests of memory say nothing."""
    source = tmp_path / "leak.c"
    source.write_text("#include <stdlib.h>\nint main(void) { return malloc(7) == (void *)1; }\n")
    run("gcc", "-O0", f"-fsanitize={flag}", str(source), "-o", str(tmp_path / "leak"))
    with pytest.raises(AssertionError, match="LeakSanitizer"):
        run(str(tmp_path / "leak"), env=os.environ | {"ASAN_OPTIONS": "detect_leaks=1"})
