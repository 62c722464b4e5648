"""Where a package's docstring lists its modules, it names them all and nothing else."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.source_modules import ROOT, Module, read_modules, synthetic

# "compare    distances …" and "svg, html, gif   one file": names, two blanks or more, what they are.
ITEM = re.compile(r"^(?P<names>\w+(?:, \w+)*) {2,}\S", re.MULTILINE)


def lists() -> list[str]:
    """Return the packages whose docstring lists modules."""
    return [
        name
        for name, module in read_modules(ROOT).items()
        if module.is_package and ITEM.search(_idea(module))
    ]


def amiss(package: str, modules: dict[str, Module]) -> Iterator[str]:
    """Complaints about a list that names what does not exist, or does not name a module at all."""
    idea = _idea(modules[package])
    listed = {name for item in ITEM.finditer(idea) for name in item["names"].split(", ")}
    inside = {name.removeprefix(f"{package}.") for name in modules if name.startswith(f"{package}.")}
    children = {name.split(".")[0] for name in inside}
    for name in sorted(listed - children):
        yield f"{package} lists {name}, which does not exist"
    for name in sorted(children - listed):
        if not re.search(rf"\b{re.escape(package)}\.{name}\b", idea):
            yield f"{package} does not list {name}"


def _idea(module: Module) -> str:
    return ast.get_docstring(ast.parse(module.source)) or ""


def test_there_are_lists() -> None:
    assert "ttc.verify" in lists()


@pytest.mark.parametrize("package", lists())
def test_a_list_of_modules_is_whole(package: str) -> None:
    assert not list(amiss(package, read_modules(ROOT)))


def test_a_stale_list_is_found() -> None:
    idea = '"""Ways. `ttc.ways.run` is the way in.\n\nold, kept   two things\n"""'
    modules = synthetic(ttc__ways=idea, ttc__ways__run="", ttc__ways__kept="", ttc__ways__new="")
    assert list(amiss("ttc.ways", modules)) == [
        "ttc.ways lists old, which does not exist",
        "ttc.ways does not list new",
    ]
