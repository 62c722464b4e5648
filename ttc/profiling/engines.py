"""Every phase on TensorRT or TensorRT-RTX engines, whole or cut. Not run on a GPU yet."""

import importlib

from ttc.base.dtypes import numpy_dtype
from ttc.base.names import BACKEND_PACKAGES
from ttc.exporter.engines.build_input import bundle_source
from ttc.exporter.engines.lower_graph import partition_graph
from ttc.model.bundle import Bundle
from ttc.profiling.engine_parts import Nodes, engine_parts
from ttc.profiling.engine_profiler import EngineProfiler, OperationTime
from ttc.profiling.phases import Phase, Sizes, make_calls
from ttc.profiling.timing import WARM_UP, Timed, clock, keeping
from ttc.runtime.gpu.engine_files import open_engines
from ttc.runtime.gpu.load_engines import load_engines
from ttc.runtime.interface.settings import LoadSettings

__all__ = ["profile_engines"]


def profile_engines(
    name: str, bundle: Bundle, settings: LoadSettings, sizes: Sizes, repeats: int, notes: list[str]
) -> dict[Phase, Timed]:
    """Time every phase, operation by operation, at graph level 0.

    notes: what is not as it should be is added to them.
    """
    nodes = _nodes(name, bundle, settings, notes)
    profiler = EngineProfiler(importlib.import_module(BACKEND_PACKAGES[name]))
    backend = load_engines(name, bundle, settings, profiler)
    itemsize = numpy_dtype(bundle.compute_dtype).itemsize
    found = {}
    try:
        for phase, prepare in make_calls(backend, sizes).items():
            calls: list[list[OperationTime]] = []
            clocked = clock(prepare, repeats, keeping(profiler.record, calls))
            seconds = [end - start for start, end in clocked]
            best = seconds.index(min(seconds))
            operations = calls[WARM_UP + best]
            parts, spans = engine_parts(
                operations, profiler.told, nodes, bundle.config, phase, clocked[best], sizes.batch, itemsize
            )
            found[phase] = Timed(seconds, parts, spans)
    finally:
        backend.close()
    notes += profiler.notes
    if not any("Metadata" in layer for layers in profiler.told.values() for layer in layers.values()):
        notes.append(
            "the engines were built without detailed verbosity: a layer of theirs is found by its name only"
        )
    return found


def _nodes(name: str, bundle: Bundle, settings: LoadSettings, notes: list[str]) -> Nodes:
    """The names of the graphs' nodes in every segment of cut engines, which the engines themselves lack: the
    graphs are cut again.
    """
    folder = open_engines(bundle, settings.engines, settings.trust, name).folder
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for role in folder.manifest.programs:
        again = partition_graph(bundle_source(bundle, role), folder.manifest.baked)
        if again.program.to_dict() != folder.program(role).to_dict():
            notes.append(
                f"{role}: this ttc cuts the graph in another way than the one that built the engines, "
                "so that their layers have no names; build them again"
            )
            continue
        pairs = zip(again.program.instructions, again.nodes, strict=True)
        found |= {(each.name, *each.outputs): names for each, names in pairs}
    return found
