"""TTC_REQUIRE turns a skip for want of a device into a failure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GPU_TEST = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu():
    pass
"""


def run_pytest(folder: Path, require: str) -> subprocess.CompletedProcess[str]:
    """A test marked `gpu`, under the project's conftest and settings, on a machine made to have no GPU."""
    root = Path(__file__).parents[2]
    tests = folder / "tests"
    tests.mkdir()
    shutil.copy(root / "pyproject.toml", folder)
    shutil.copy(root / "tests" / "conftest.py", tests)
    (tests / "test_gpu.py").write_text(GPU_TEST)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TTC_REQUIRE": require},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("require", "code", "says"),
    [
        ("", 0, "needs a GPU: torch.cuda.is_available() is False"),
        ("gpu", 1, "TTC_REQUIRE=gpu, but torch.cuda.is_available() is False"),
        ("gpux", 4, "TTC_REQUIRE names ['gpux']"),
    ],
)
def test_a_missing_gpu(tmp_path: Path, require: str, code: int, says: str) -> None:
    done = run_pytest(tmp_path, require)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
