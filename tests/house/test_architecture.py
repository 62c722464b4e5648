"""Who may import whom. Imports are read from the source, those inside functions included.

`RULES` is the contract; CONTRIBUTING.md says it in words.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import ttc

ROOT = Path(__file__).parents[2]
FOLDERS = ("exporter", "plugins", "profiles", "runtime")

GROUND = ("ttc.errors", "ttc.base")
# What both halves stand on.
SHARED = (*GROUND, "ttc.__version__", "ttc.formats", "ttc.model", "ttc.plugins", "ttc.profiles")
INTERFACE = "ttc.runtime.interface"
# Package -> what it may import of `ttc`, itself apart. The longest matching package counts; what is not
# named here (the face, the commands and the tools) may import everything.
RULES: Mapping[str, tuple[str, ...]] = {
    "ttc.errors": (),
    "ttc.base": ("ttc.errors",),
    "ttc.formats": GROUND,
    "ttc.plugins": GROUND,
    "ttc.profiles": GROUND,
    "ttc.model": (*GROUND, "ttc.formats", "ttc.plugins"),
    "ttc.exporter": SHARED,
    "ttc.exporter.passes": SHARED,
    "ttc.exporter.onnx": (*SHARED, "ttc.exporter.passes"),
    "ttc.exporter.engines": (*SHARED, "ttc.exporter.passes"),
    "ttc.runtime": SHARED,
    "ttc.runtime.interface": SHARED,
    "ttc.runtime.decoding": (*SHARED, INTERFACE),
    "ttc.runtime.gpu": (*SHARED, INTERFACE),
    "ttc.runtime.backends": (*SHARED, INTERFACE, "ttc.runtime.gpu"),
}
# Packages that cost seconds to import or are not always installed …
HEAVY = frozenset({"onnxscript", "polygraphy", "tensorrt", "tensorrt_rtx", "torch", "transformers", "triton"})
# … and the only places that may import them at module level. Elsewhere the function that needs one does.
HEAVY_PLACES = (
    "ttc/model/mixers.py",
    "exporter/onnx/graphs.py",
    "exporter/onnx/pieces.py",
    "ttc/model/towers.py",
    "exporter/onnx/tracing.py",
    "plugins/kernel_math.py",
    "plugins/kernels.py",
    "plugins/naive.py",
    "plugins/ptx.py",
    "plugins/triton.py",
    "plugins/*/kernel.py",
    "plugins/*/naive.py",
    "runtime/backends/torch/*.py",
    "ttc/polygraphy_ext/*.py",
)
# Development packages: no part of `ttc` imports them.
NEVER = frozenset({"hypothesis", "pytest", "safetensors"})


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


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _top(name: str) -> str:
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


def forbidden_imports(modules: Mapping[str, Module]) -> list[str]:
    """Imports against `RULES`, relative ones, and those of development packages."""
    found = []
    for name, module in modules.items():
        rule = max((package for package in RULES if _within(name, [package])), key=len, default=None)
        for wanted in module.imports(modules):
            target, where = wanted.target, f"{module.path}:{wanted.line}"
            if target.startswith("."):
                found.append(f"{where} imports {target}: relative; write the whole name")
            elif target in FOLDERS or _top(target) in FOLDERS:
                found.append(f"{where} imports {target}: a second copy of ttc.{target}")
            elif _top(target) in NEVER:
                found.append(f"{where} imports {target}: a development package")
            elif target in ("ttc.cli", "ttc.__main__") and name != "ttc.__main__":
                found.append(f"{where} imports {target}: only ttc.__main__ may")
            elif rule and _top(target) == "ttc" and not _within(target, (rule, *RULES[rule])):
                found.append(
                    f"{where} imports {target}: {rule} may import {', '.join(RULES[rule]) or 'nothing'}"
                )
    return found


def heavy_imports(modules: Mapping[str, Module]) -> list[str]:
    """Heavy packages imported at module level outside `HEAVY_PLACES`, directly or through another module."""
    loads = {name: sorted(set(_loaded(name, module, modules))) for name, module in modules.items()}
    heavy = {name for name, module in modules.items() if any(module.path.match(p) for p in HEAVY_PLACES)}
    found = []
    for name, module in modules.items():
        if name in heavy:
            continue
        for target in loads[name]:
            if _top(target) in HEAVY:
                found.append(f"{module.path} imports {target} at module level")
            elif target in heavy:
                found.append(f"{module.path} imports {target} at module level, which needs a heavy package")
    return found


def _loaded(name: str, module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """What importing a module imports at once, its own packages and those of its targets included."""
    for target in (name, *(wanted.target for wanted in module.imports(modules) if wanted.eager)):
        parts = target.split(".")
        yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1) if ".".join(parts[:n]) != name)


def cycles(modules: Mapping[str, Module]) -> list[str]:
    """Circles of imports between modules, those inside functions included."""
    edges = {
        name: sorted({wanted.target for wanted in module.imports(modules)} & (set(modules) - {"ttc"}))
        for name, module in modules.items()
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for target in edges[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())
    return found


def test_every_folder_is_read() -> None:
    names = set(read_modules(ROOT))
    assert {"ttc", "ttc.formats.bundle", *(f"ttc.{folder}" for folder in FOLDERS)} <= names
    assert set(RULES) <= names


def test_nobody_imports_what_it_may_not() -> None:
    assert not forbidden_imports(read_modules(ROOT))


def test_heavy_packages_stay_in_their_places() -> None:
    assert not heavy_imports(read_modules(ROOT))


def test_no_circles() -> None:
    assert not cycles(read_modules(ROOT))


def synthetic(**sources: str) -> dict[str, Module]:
    """Modules from source text: `plugins__ops="import os"` is the file plugins/ops.py."""
    modules = {}
    for key, source in sources.items():
        path = key.replace("__", "/") + ".py"
        name = "ttc." + key.replace("__", ".").removeprefix("ttc.")
        modules[name] = Module(Path(path), source)
    return modules


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"plugins__ops": "import ttc.formats.bundle"}, "ops.py:1 imports ttc.formats.bundle"),
        ({"plugins__ops": "from ttc.formats import bundle"}, "imports ttc.formats"),
        (
            {"profiles__loader": "def f():\n    from ttc.model.config import x"},
            "profiles/loader.py:2 imports ttc.model.config",
        ),
        ({"exporter__onnx": "from ttc import load"}, "imports ttc.runtime.engine"),
        ({"exporter__onnx": "import ttc"}, "imports ttc:"),
        (
            {"exporter__onnx": "f = lambda: import_module('ttc.runtime.decoding.loop')"},
            "imports ttc.runtime.decoding.loop",
        ),
        (
            {"runtime__engine": "from ttc.exporter import passes", "exporter__passes": ""},
            "imports ttc.exporter.passes",
        ),
        (
            {"runtime__backends__torch__run": "import ttc.exporter.onnx.checkpoint"},
            "imports ttc.exporter.onnx.checkpoint",
        ),
        ({"exporter__onnx__export": "import ttc.exporter.engines.build"}, "ttc.exporter.engines.build"),
        ({"exporter__passes__cut": "import ttc.exporter.onnx.graphs"}, "imports ttc.exporter.onnx.graphs"),
        ({"runtime__gpu__backend": "import ttc.runtime.backends"}, "imports ttc.runtime.backends"),
        ({"runtime__decoding__loop": "import ttc.runtime.gpu.device"}, "imports ttc.runtime.gpu.device"),
        ({"runtime__interface__state": "import ttc.runtime.decoding.rows"}, "ttc.runtime.decoding.rows"),
        ({"runtime__decoding__loop": "import ttc.runtime.engine"}, "imports ttc.runtime.engine"),
        ({"runtime__decoding__loop": "import ttc.doctor.abilities"}, "imports ttc.doctor.abilities"),
        ({"ttc__errors": "import ttc.formats.bundle"}, "imports ttc.formats.bundle"),
        ({"ttc__formats__bundle": "import ttc.model.config"}, "imports ttc.model.config"),
        ({"ttc__formats__bundle": "import ttc.runtime"}, "imports ttc.runtime"),
        ({"ttc__demo": "import ttc.cli"}, "only ttc.__main__ may"),
        ({"ttc__demo": "import exporter.towers"}, "a second copy"),
        ({"ttc__demo": "import hypothesis"}, "a development package"),
        ({"ttc__demo": "from . import bundle"}, "relative"),
    ],
)
def test_a_forbidden_import_is_found(sources: dict[str, str], complaint: str) -> None:
    (found,) = forbidden_imports(synthetic(**sources))
    assert complaint in found


def test_a_heavy_import_is_found() -> None:
    sources = {
        "exporter__passes__fold": "try:\n    import torch.nn\nexcept ImportError: pass",
        "plugins__op__kernel": "import triton",
        "runtime__engine": "import ttc.plugins.op.kernel",
        "runtime__loop": "def f():\n    import torch",
        "runtime__state": "if TYPE_CHECKING:\n    import torch",
    }
    assert heavy_imports(synthetic(**sources)) == [
        "exporter/passes/fold.py imports torch at module level",
        "exporter/passes/fold.py imports torch.nn at module level",
        "runtime/engine.py imports ttc.plugins.op.kernel at module level, which needs a heavy package",
    ]


def test_a_circle_is_found() -> None:
    sources = {
        "runtime__a": "from ttc.runtime import b",
        "runtime__b": "import ttc.runtime.c",
        "runtime__c": "def f():\n    from ttc.runtime.a import x",
    }
    assert cycles(synthetic(**sources)) == [
        "ttc.runtime.a -> ttc.runtime.b -> ttc.runtime.c -> ttc.runtime.a"
    ]


def test_what_is_allowed_is_not_complained_about() -> None:
    sources = {
        "plugins__ops": "from ttc.errors import InputError\nfrom ttc.plugins import table",
        "exporter__export": "from ttc import __version__\nimport ttc.model.bundle, ttc.profiles",
        "runtime__backends__torch__run": "import torch, ttc.model.towers, ttc.runtime.interface.state",
        "runtime__loop": "if TYPE_CHECKING:\n    from ttc.exporter.onnx.export import export",
        "ttc__demo": "from ttc.exporter.onnx.checkpoint import x\nimport ttc.runtime.engine",
    }
    modules = synthetic(**sources)
    assert forbidden_imports(modules) + heavy_imports(modules) + cycles(modules) == []
