"""Who may import whom. Imports are read from the source, those inside functions included.

`RULES` is the contract; docs/architecture.md draws it, CONTRIBUTING.md says it in words.
"""

from collections.abc import Iterator, Mapping

import pytest

from tests.support.source_modules import FOLDERS, ROOT, Module, read_modules, synthetic, top, within

GROUND = ("ttc.errors", "ttc.base")
# What both halves stand on.
SHARED = (*GROUND, "ttc.__version__", "ttc.formats", "ttc.model", "ttc.plugins", "ttc.profiles")
EXPORTER, RUNTIME, INTERFACE = "ttc.exporter", "ttc.runtime", "ttc.runtime.interface"
# Package -> what it may import of `ttc`, itself apart. The longest matching package counts, and every module
# has one; "ttc" is the face alone, which imports what it names when it is asked.
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
    "ttc.serving": (*SHARED, RUNTIME),
    "ttc": ("ttc.errors", EXPORTER, RUNTIME),
    "ttc.doctor": (*GROUND, "ttc.__version__"),
    "ttc.planning": SHARED,
    # The core and its modes themselves, and what a GPU pads calls to: no rule is written a second time.
    "ttc.planning.simulation": (
        *SHARED,
        "ttc.planning",
        INTERFACE,
        "ttc.runtime.decoding",
        "ttc.runtime.gpu.lengths",
    ),
    "ttc.inspection": (*SHARED, EXPORTER),
    "ttc.quantize": (*SHARED, EXPORTER),
    "ttc.animation": (*SHARED, RUNTIME),
    "ttc.demo": (*SHARED, RUNTIME),
    "ttc.bench": (*SHARED, RUNTIME, "ttc.doctor"),
    "ttc.verify": (*SHARED, EXPORTER, RUNTIME, "ttc.doctor"),
    "ttc.profiling": (*SHARED, EXPORTER, RUNTIME, "ttc.verify"),
    "ttc.polygraphy_ext": (*SHARED, EXPORTER, RUNTIME, "ttc.verify"),
    "ttc.commands": (
        "ttc",
        *SHARED,
        EXPORTER,
        RUNTIME,
        "ttc.animation",
        "ttc.bench",
        "ttc.demo",
        "ttc.doctor",
        "ttc.inspection",
        "ttc.planning",
        "ttc.profiling",
        "ttc.quantize",
        "ttc.serving",
        "ttc.verify",
    ),
    "ttc.cli": (*GROUND, "ttc.__version__", "ttc.commands"),
    "ttc.__main__": ("ttc.cli",),
}
# Packages that cost seconds to import or are not always installed …
HEAVY = frozenset(
    {"onnxscript", "polygraphy", "ray", "tensorrt", "tensorrt_rtx", "torch", "transformers", "triton"}
)
# … and the only places that may import them at module level. Elsewhere the function that needs one does.
HEAVY_PLACES = (
    "ttc/model/fused_towers.py",
    "ttc/model/places.py",
    "ttc/model/mixers.py",
    "exporter/onnx/graphs.py",
    "exporter/onnx/pieces.py",
    "ttc/model/towers.py",
    "exporter/onnx/tracing.py",
    "plugins/bound_launch.py",
    "plugins/commit_rule.py",
    "plugins/grouped_product.py",
    "plugins/kernel_math.py",
    "plugins/kernels.py",
    "plugins/attention_walk.py",
    "plugins/mamba_walk.py",
    "plugins/naive.py",
    "plugins/old_interpreter.py",
    "plugins/ptx.py",
    "plugins/quantised_decode.py",
    "plugins/stream_math.py",
    "plugins/torch_tensors.py",
    "plugins/triton.py",
    "plugins/vocabulary_scan.py",
    "plugins/weight_tiles.py",
    "plugins/*/kernel.py",
    "plugins/*/naive.py",
    "runtime/backends/torch/*.py",
    "serving/adapters/ray.py",
    "ttc/polygraphy_ext/*.py",
)
# Development packages: no part of `ttc` imports them.
NEVER = frozenset({"hypothesis", "pytest", "safetensors"})


def rule_of(name: str) -> str:
    """Return the package of `RULES` that a module belongs to."""
    return max((package for package in RULES if within(name, [package])), key=len)


def forbidden_imports(modules: Mapping[str, Module]) -> list[str]:
    """Imports against `RULES`, relative ones, and those of development packages."""
    found = []
    for name, module in modules.items():
        rule = rule_of(name)
        for wanted in module.imports(modules):
            target, where = wanted.target, f"{module.path}:{wanted.line}"
            if target.startswith("."):
                found.append(f"{where} imports {target}: relative; write the whole name")
            elif target in FOLDERS or top(target) in FOLDERS:
                found.append(f"{where} imports {target}: a second copy of ttc.{target}")
            elif top(target) in NEVER:
                found.append(f"{where} imports {target}: a development package")
            elif top(target) == "ttc" and not within(target, (rule, *RULES[rule])):
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
            if top(target) in HEAVY:
                found.append(f"{module.path} imports {target} at module level")
            elif target in heavy:
                found.append(f"{module.path} imports {target} at module level, which needs a heavy package")
    return found


def _loaded(name: str, module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """What importing a module imports at once, its own packages and those of its targets included."""
    for target in (name, *(wanted.target for wanted in module.imports(modules) if wanted.eager)):
        parts = target.split(".")
        yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1) if ".".join(parts[:n]) != name)


def module_edges(modules: Mapping[str, Module]) -> dict[str, list[str]]:
    """Module -> the modules it imports, those inside functions included."""
    return {
        name: sorted({wanted.target for wanted in module.imports(modules)} & (set(modules) - {"ttc"}))
        for name, module in modules.items()
    }


def package_edges(modules: Mapping[str, Module]) -> dict[str, list[str]]:
    """Folder -> the folders it imports. Files that lie in `ttc` itself count as folders of their own."""
    folders = {name: name if module.is_package else parent(name) for name, module in modules.items()}
    edges: dict[str, set[str]] = {folder: set() for folder in folders.values()}
    for name, targets in module_edges(modules).items():
        edges[folders[name]] |= {folders[target] for target in targets} - {folders[name]}
    return {folder: sorted(targets) for folder, targets in edges.items()}


def parent(module: str) -> str:
    """Return the folder of a module that is a file."""
    folder = module.rpartition(".")[0]
    return module if folder in ("", "ttc") else folder


def circles(edges: Mapping[str, list[str]]) -> list[str]:
    """Circles of imports."""
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


def test_no_circles_of_modules() -> None:
    assert not circles(module_edges(read_modules(ROOT)))


def test_no_circles_of_packages() -> None:
    assert not circles(package_edges(read_modules(ROOT)))


def test_the_drawing_names_every_package() -> None:
    """docs/architecture.md draws the strata: nothing of the table is missing there."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = text.split("## The strata", 1)[1].split("```", 2)[1]
    folders = {package.split(".")[-1] for package in RULES} - {"ttc", "__main__"}
    assert not {folder for folder in folders if folder not in drawing}


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"plugins__ops": "import ttc.formats.bundle"}, "ops.py:1 imports ttc.formats.bundle"),
        ({"plugins__ops": "from ttc.formats import bundle"}, "imports ttc.formats"),
        (
            {"profiles__loader": "def f():\n    from ttc.model.config import x"},
            "profiles/loader.py:2 imports ttc.model.config",
        ),
        ({"exporter__onnx": "from ttc import load"}, "imports ttc.runtime.load"),
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
        ({"ttc__demo": "import ttc.cli"}, "imports ttc.cli: ttc.demo may import"),
        ({"ttc__verify": "import ttc.commands.terminal"}, "imports ttc.commands.terminal: ttc.verify may"),
        ({"ttc__bench": "import ttc.verify"}, "imports ttc.verify: ttc.bench may"),
        ({"ttc__bench": "import ttc"}, "imports ttc: ttc.bench may"),
        ({"ttc__planning__passes": "import ttc.runtime.decoding.core"}, "ttc.planning may"),
        ({"ttc__planning__simulation__x": "import ttc.runtime.engine"}, "imports ttc.runtime.engine"),
        ({"ttc__commands__plan": "import ttc.cli"}, "imports ttc.cli: ttc.commands may"),
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
    assert circles(module_edges(synthetic(**sources))) == [
        "ttc.runtime.a -> ttc.runtime.b -> ttc.runtime.c -> ttc.runtime.a"
    ]


def test_a_circle_of_packages_is_found() -> None:
    sources = {
        "ttc__verify__a": "from ttc.profiling import b",
        "ttc__verify__c": "",
        "ttc__profiling__b": "import ttc.verify.c",
    }
    modules = synthetic(**sources)
    assert circles(module_edges(modules)) == []
    assert circles(package_edges(modules)) == ["ttc.verify -> ttc.profiling -> ttc.verify"]


def test_what_is_allowed_is_not_complained_about() -> None:
    sources = {
        "plugins__ops": "from ttc.errors import InputError\nfrom ttc.plugins import table",
        "exporter__export": "from ttc import __version__\nimport ttc.model.bundle, ttc.profiles",
        "runtime__backends__torch__run": "import torch, ttc.model.towers, ttc.runtime.interface.state",
        "runtime__loop": "if TYPE_CHECKING:\n    from ttc.exporter.onnx.export import export",
        "ttc__commands": "from ttc.exporter.onnx.checkpoint import x\nimport ttc.runtime.engine",
    }
    modules = synthetic(**sources)
    assert forbidden_imports(modules) + heavy_imports(modules) + circles(module_edges(modules)) == []
