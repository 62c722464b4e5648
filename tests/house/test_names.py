"""Names of backends, modes and compute dtypes are listed once, in `ttc/base/names.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ttc.base.names import BACKEND_PACKAGES, BACKENDS, COMPUTE_DTYPES, ENGINE_BACKENDS, MODES

ROOT = Path(__file__).parents[2]
HOME = ROOT / "ttc" / "base" / "names.py"
CODE = ("ttc", "exporter", "plugins", "profiles", "runtime", "benchmarks", "examples")
LISTS = tuple(map(frozenset, (BACKENDS, ENGINE_BACKENDS, BACKEND_PACKAGES.values(), MODES, COMPUTE_DTYPES)))


def second_lists(source: str) -> Iterator[str]:
    """Lists in a source file that hold all of the names of one kind and no other."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Tuple | ast.List | ast.Set) and node.elts:
            words = [word.value for word in node.elts if isinstance(word, ast.Constant)]
            if len(words) == len(node.elts) and set(words) in LISTS:
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_list_of_names_is_written_twice() -> None:
    files = (file for folder in CODE for file in (ROOT / folder).rglob("*.py") if file != HOME)
    found = {str(file.relative_to(ROOT)): list(second_lists(file.read_text("utf-8"))) for file in files}
    assert not {file: lines for file, lines in found.items() if lines}


@pytest.mark.parametrize(
    "source",
    [
        'ENGINES = ("tensorrt-rtx", "tensorrt")',
        'if dtype in ["float16", "bfloat16", "float32"]: pass',
        'Mode = Literal["ar", "diffusion", "lossless", "mock-ar", "prompt-lookup"]',
    ],
)
def test_a_second_list_is_found(source: str) -> None:
    assert len(list(second_lists(source))) == 1
