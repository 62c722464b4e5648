"""A bundle or an ONNX file → TensorRT engines and their manifest."""

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from ttc.errors import InputError
from ttc.exporter.engines.build_phases import timed_phase
from ttc.exporter.engines.build_report import BuildReport, GraphReport
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.engine_builder import LAYERS_ENDING, BuiltGraph, EngineBuilder, Progress
from ttc.exporter.engines.planning import make_plan
from ttc.formats.atomic_folder import folder_writer
from ttc.formats.engines import ENGINES
from ttc.formats.shipped import find_bundle
from ttc.formats.signed_folder import signer
from ttc.profiles.build_profile import BuildProfile

__all__ = ["build", "build_engines"]


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    backend: str = "tensorrt-rtx",
    profile: str | os.PathLike[str] | BuildProfile | None = None,
    *,
    form: str = "whole",
    targets: tuple[str, ...] | None = None,
    shapes: Mapping[str, Mapping[str, int | tuple[int, ...]]] | None = None,
    bake: bool = False,
    cache: bool = True,
    check_reproducible: bool = False,
    layers: bool = False,
    sign: str | os.PathLike[str] | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    plugins: tuple[str | os.PathLike[str], ...] = (),
    tf32: bool = False,
    log: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    trust: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build engines for all graphs of a bundle, or for one ONNX file.

    Args:
        model: bundle folder or `.onnx` file; "miniature" as `ttc.load`.
        output: folder of the engines; None: BUNDLE/engines, FILE.engines.
        backend: "tensorrt-rtx" or "tensorrt".
        profile: preset, TOML file or profile; None: "latency", fitted to the model.
        form: "whole" or "cut" (`ttc.formats.program`).
        targets: compute capabilities like "8.9"; None: the profile's.
        shapes: single sizes of the profile replaced: {"batch": {"max": 8}}. Of a foreign ONNX file the sizes
            of its inputs: by input {"x": {"max": (8, 3, 32, 32)}}, or by the name of a dimension.
        bake: put the weights into the engines.
        cache: look for the engines in the cache, and keep them there.
        check_reproducible: build everything twice and compare.
        layers: also write the layers of every network.
        sign: PEM file of an ed25519 private key.
        timing_cache: file to start from and to update (TensorRT only).
        plugins: files with plugins of other people: shared libraries and Python modules (TensorRT only).
        tf32: let products of float32 be computed in TF32 (foreign ONNX files only).
        log: file that gets everything that the library says while it builds.
        checkpoint: where the checkpoint of a bundle by reference lies now, if it was moved.
        trust: PEM file of the public key that must have signed the bundle; None: any.
        progress: called with (what, done, total) as the work goes on.

    Returns:
        What was made. On any error, and when killed, the output is as it was.

    Raises:
        InputError: model or settings are not valid.
        BundleError: the bundle is damaged, or the disk is full.
        BackendError: the backend is missing or refuses.
    """
    settings = BuildSettings(
        backend=backend,
        form=form,
        profile=profile,
        shapes=shapes or {},
        targets=targets,
        bake=bake,
        cache=cache,
        check_reproducible=check_reproducible,
        layers=layers,
        sign=sign,
        timing_cache=timing_cache,
        plugins=plugins,
        tf32=tf32,
        log=log,
        checkpoint=checkpoint,
        trust=trust,
    )
    return build_engines(model, output, settings, progress)


def build_engines(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    settings: BuildSettings,
    progress: Progress | None = None,
) -> BuildReport:
    """Build as `build` does, with the options in one object."""
    start = time.perf_counter()
    plan = make_plan(find_bundle(model), output, settings)
    if plan.problems:
        raise InputError("; ".join(plan.problems))
    with folder_writer(plan.output, True, ENGINES) as draft:
        show = progress or (lambda what, done, total: None)
        builder = EngineBuilder(settings, plan.targets, plan.version, show, draft.path / "work")
        jobs = plan.jobs(show)
        graphs = builder.build(jobs)
        reports = [_move(graph, draft.path, settings.layers) for graph in graphs]
        shutil.rmtree(draft.path / "work")
        engines = {name: engine for graph in graphs for name, engine in graph.engines.items()}
        programs = {graph.role: graph.program for graph in graphs if graph.program is not None}
        is_fixed = all(graph.is_fixed for graph in graphs)
        manifest = plan.manifest(jobs, engines, programs, is_fixed)
        made = draft.commit(manifest, signer(settings.sign, ENGINES))
    builder.save_timing_cache()
    return BuildReport(
        output=made,
        backend=settings.backend,
        backend_version=str(plan.version),
        form=settings.form,
        targets=plan.targets,
        graphs=tuple(reports),
        seconds=time.perf_counter() - start,
        notes=(*plan.notes, *builder.notes),
        reproducible=True if settings.check_reproducible else None,
    )


def _move(graph: BuiltGraph, folder: Path, layers: bool) -> GraphReport:
    """Move the files of a graph to where they stay; return its report with what that cost."""
    phases = dict(graph.report.phases)
    with timed_phase(phases, "write"):
        for file in graph.files:
            if layers or not file.name.endswith(LAYERS_ENDING):
                os.replace(file, folder / file.name)
    return dataclasses.replace(graph.report, phases=phases)
