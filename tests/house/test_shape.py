"""What holds for every file and folder: files are short, folders say their idea, few speak to the user."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source_modules import FOLDERS, ROOT, Module, read_modules, synthetic, within

MAX_LINES = 400
CODE = ("ttc", *FOLDERS, "benchmarks", "examples", "tests")
# The command line. Beside it only programs speak: modules that run as `python -m`.
SPEAKERS = ("ttc.cli", "ttc.commands")


def code_files() -> Iterator[Path]:
    for folder in CODE:
        for file in (ROOT / folder).rglob("*.py"):
            # The links in `ttc` lead to what is read at its own place.
            if folder != "ttc" or file.relative_to(ROOT / "ttc").parts[0] not in FOLDERS:
                yield file


def is_program(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node) for node in tree.body
    )


def spoken(module: Module) -> Iterator[str]:
    """Lines of a module that print, exit, or use the command line's library."""
    tree = ast.parse(module.source)
    if is_program(tree):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print" | "exit" | "quit" as name)):
                yield f"{module.path}:{node.lineno} calls {name}"
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr" | "exit" as name):
                yield f"{module.path}:{node.lineno} uses sys.{name}"
            case ast.Import(names=[ast.alias(name="click")]) | ast.ImportFrom(module="click"):
                yield f"{module.path}:{node.lineno} imports click"


def test_no_file_is_long() -> None:
    lengths = {str(file.relative_to(ROOT)): file.read_text("utf-8").count("\n") for file in code_files()}
    assert not {file: lines for file, lines in lengths.items() if lines > MAX_LINES}


def test_every_package_says_its_idea() -> None:
    packages = {name: module for name, module in read_modules(ROOT).items() if module.is_package}
    ideas = {name: ast.get_docstring(ast.parse(module.source)) for name, module in packages.items()}
    assert not [name for name, idea in ideas.items() if not idea]


def test_only_the_command_line_speaks() -> None:
    modules = read_modules(ROOT)
    silent = [module for name, module in modules.items() if not within(name, SPEAKERS)]
    assert not [line for module in silent for line in spoken(module)]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f():\n    print(1)", "x.py:2 calls print"),
        ("import sys\nsys.stderr.write('no')", "x.py:2 uses sys.stderr"),
        ("import click", "x.py:1 imports click"),
        ("from click import echo", "x.py:1 imports click"),
    ],
)
def test_a_module_that_speaks_is_found(source: str, complaint: str) -> None:
    (found,) = spoken(synthetic(runtime__x=source)["ttc.runtime.x"])
    assert complaint in found


def test_a_program_may_speak() -> None:
    source = "import sys\nsys.stdout.write('0')\nif __name__ == '__main__':\n    pass"
    assert not list(spoken(synthetic(runtime__x=source)["ttc.runtime.x"]))
