"""Names of backends, modes and compute dtypes are listed once, in `ttc/base/names.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ttc.base.names import BACKEND_PACKAGES, BACKENDS, COMPUTE_DTYPES, ENGINE_BACKENDS, MODES

ROOT = Path(__file__).parents[2]
HOME = ROOT / "ttc" / "base" / "names.py"
CODE = ("ttc", "exporter", "plugins", "profiles", "runtime", "serving", "benchmarks", "examples")
LISTS = tuple(map(frozenset, (BACKENDS, ENGINE_BACKENDS, BACKEND_PACKAGES.values(), MODES, COMPUTE_DTYPES)))
# Tables that have something of their own to say for every name, with what it is.
TABLES = {
    ("ttc/verify/tolerances.py", "_TABLE"): "how far results in each compute dtype may be off",
    ("runtime/decoding/modes/table.py", "self._makers"): "what makes each mode",
}


def second_lists(source: str, file: str = "") -> Iterator[str]:
    """Lists in a source file, and keys of tables, that hold all of the names of one kind and no other."""
    tree = ast.parse(source)
    allowed = {id(value) for name, value in assigned(tree) if (file, name) in TABLES}
    for node in ast.walk(tree):
        if id(node) in allowed:
            continue
        words = [word.value for word in elements(node) if isinstance(word, ast.Constant)]
        if words and len(words) == len(elements(node)) and set(words) in LISTS:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names and attributes that a module assigns to, and what."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value):
                yield ast.unparse(target), value
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield ast.unparse(target), value


def elements(node: ast.AST) -> list[ast.expr | None]:
    """Elements of a list, or keys of a dict."""
    match node:
        case ast.Tuple(elts=elts) | ast.List(elts=elts) | ast.Set(elts=elts):
            return [*elts]
        case ast.Dict(keys=keys):
            return keys
    return []


def test_no_list_of_names_is_written_twice() -> None:
    files = [file for folder in CODE for file in (ROOT / folder).rglob("*.py") if file != HOME]
    names = {file: str(file.relative_to(ROOT)) for file in files}
    found = {name: list(second_lists(file.read_text("utf-8"), name)) for file, name in names.items()}
    assert not {file: lines for file, lines in found.items() if lines}


@pytest.mark.parametrize(
    "source",
    [
        'ENGINES = ("tensorrt-rtx", "tensorrt")',
        'if dtype in ["float16", "bfloat16", "float32"]: pass',
        '_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}',
        'Mode = Literal["ar", "diffusion", "lossless", "mock-ar", "prompt-lookup"]',
    ],
)
def test_a_second_list_is_found(source: str) -> None:
    assert len(list(second_lists(source))) == 1


@pytest.mark.parametrize(("file", "table"), TABLES)
def test_tables_are_still_there(file: str, table: str) -> None:
    source = (ROOT / file).read_text("utf-8")
    assert any(name == table for name, _ in assigned(ast.parse(source)))
    assert list(second_lists(source))
