"""The source of `ttc` as modules, and what each imports, read without importing anything."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ttc

__all__ = ["FOLDERS", "ROOT", "Import", "Module", "read_modules", "synthetic", "top", "within"]

ROOT = Path(__file__).parents[2]
# Folders of the root that are packages of `ttc`.
FOLDERS = ("exporter", "plugins", "profiles", "runtime", "serving")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module. `eager`: it happens when the importing module is imported."""

    target: str
    line: int
    eager: bool


@dataclass(frozen=True, slots=True)
class Module:
    """One source file, under the name it is imported by."""

    path: Path
    source: str
    is_package: bool = False

    def imports(self, known: Iterable[str]) -> Iterator[Import]:
        """Every import of the file but those that only type checkers see."""
        yield from _walk(ast.parse(self.source), frozenset(known), eager=True)


def _walk(node: ast.AST, known: frozenset[str], eager: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from _walk(ast.Module([other], []), known, eager)
            continue
        for target in _targets(child, known):
            yield Import(target, getattr(child, "lineno", 0), eager)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, known, eager and not inside)


def _targets(node: ast.AST, known: frozenset[str]) -> list[str]:
    """Names of the modules that a statement imports; a relative import keeps its dots."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = "." * level + (module or "")
            return [_home(base, alias.name, known) for alias in names]
        case ast.Call(
            func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(value)), *_]
        ):
            return [value] if name in ("import_module", "__import__") else []
    return []


def _home(base: str, name: str, known: frozenset[str]) -> str:
    """The module that `from base import name` is about."""
    if base == "ttc" and name in ttc._HOMES:
        return ttc._HOMES[name]
    whole = f"{base}.{name}"
    return whole if whole in known or base == "ttc" else base


def within(name: str, packages: Iterable[str]) -> bool:
    """Return whether a module is one of the packages or in one; "ttc" is its `__init__` alone."""
    return any(
        name == package or (package != "ttc" and name.startswith(f"{package}.")) for package in packages
    )


def top(name: str) -> str:
    """Return the outermost package of a module."""
    return name.split(".", 1)[0]


def read_modules(root: Path) -> dict[str, Module]:
    """Every module of `ttc` by name, from the files at their own place (not through the links)."""
    places = {root / "ttc": "ttc"} | {root / folder: f"ttc.{folder}" for folder in FOLDERS}
    modules = {}
    for folder, package in places.items():
        # The links in `ttc` lead to what is read at its own place.
        own = [f for f in folder.rglob("*.py") if f.relative_to(folder).parts[0] not in FOLDERS]
        for file in own if package == "ttc" else folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join((package, *(parts[:-1] if is_package else parts)))
            modules[name] = Module(file.relative_to(root), file.read_text(encoding="utf-8"), is_package)
    return modules


def synthetic(**sources: str) -> dict[str, Module]:
    """Return modules from source text: `plugins__ops="import os"` is the file plugins/ops.py."""
    modules = {}
    for key, source in sources.items():
        path = key.replace("__", "/") + ".py"
        name = "ttc." + key.replace("__", ".").removeprefix("ttc.")
        modules[name] = Module(Path(path), source)
    return modules
