"""`profile`: from a bundle to a report of where the time goes."""

import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ttc.base.dtypes import numpy_dtype
from ttc.base.names import ENGINE_BACKENDS
from ttc.base.quoting import quoted
from ttc.errors import InputError
from ttc.model.bundle import Bundle
from ttc.profiling import eager, onnxruntime
from ttc.profiling.costs import measure_limits
from ttc.profiling.engines import profile_engines
from ttc.profiling.phases import PHASES, Phase, Sizes, make_calls
from ttc.profiling.report import LoopTime, PhaseProfile, Profile
from ttc.profiling.timing import WARM_UP, Timed, clock, keeping
from ttc.profiling.trace import Span
from ttc.runtime.decoding.limits import check_rows, fitting_capacity, fitting_chunk
from ttc.runtime.decoding.result import Result
from ttc.runtime.engine import Engine
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings
from ttc.verify.backends import library_version, open_candidate

__all__ = ["profile"]

_BLOCK = 16
_LOOP_TOKENS = 48

Say = Callable[[str], None]


def profile(
    bundle: str | os.PathLike[str],
    backend: str = "onnxruntime",
    *,
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    engines: str | os.PathLike[str] | None = None,
    trust: str | os.PathLike[str] | None = None,
    batch: int = 1,
    context: int = 64,
    repeats: int = 20,
    threads: int | None = None,
    peak_flops: float | None = None,
    peak_bandwidth: float | None = None,
    progress: Say | None = None,
) -> tuple[Profile, tuple[Span, ...]]:
    """Time every phase of a generation, layer by layer and op by op.

    Args:
        bundle: the folder that `ttc export` wrote.
        backend: one of `ttc.base.names.BACKENDS`.
        device, checkpoint, engines, trust, threads: as in `ttc.load`, but for one device only.
        batch: rows.
        context: tokens already read.
        repeats: calls of each phase; the fastest is shown.
        peak_flops, peak_bandwidth: the hardware's limits, per second; None measures what numpy reaches on
            the CPU, and leaves them unknown on a GPU.
        progress: called with a line of text before each piece of work.

    Returns:
        The profile, and its spans for a trace.

    Raises:
        InputError: an option is not valid.
        BundleError, BackendError: as `ttc.load`.
    """
    say = progress or (lambda line: None)
    if backend not in _PROFILERS:
        raise InputError(f"backend {backend!r} tells no times of layers; valid: {', '.join(_PROFILERS)}")
    for name, value, most in (
        ("batch", batch, 4096),
        ("context", context, 2**31 - 1),
        ("repeats", repeats, 10**6),
    ):
        if not 1 <= value <= most:
            raise InputError(f"{name} is {quoted(value)}; valid: 1 to {most}")
    settings = _settings(backend, device, threads, engines, trust)
    given = _given_limits(peak_flops, peak_bandwidth)
    notes: list[str] = []
    with Bundle.open(bundle, checkpoint, trust) as opened:
        say(f"{backend}: without a profiler")
        plain = open_candidate(
            backend, opened, device, layers=False, threads=threads, engines=engines, trust=trust
        )
        try:
            sizes = _sizes(opened, batch, context, plain.backend)
            limits = _limits(given, plain.device, notes)
            loops = _loops(plain.backend, sizes.block)
            unprofiled = _unprofiled(plain.backend, sizes, repeats)
            notes += plain.backend.notes
        finally:
            plain.backend.close()
        say(f"{backend}: with its profiler")
        timed = _PROFILERS[backend](opened, settings, sizes, repeats, notes)
        phases = tuple(
            PhaseProfile(
                phase.name,
                phase.tokens,
                min(found.seconds),
                unprofiled[phase.name],
                statistics.median(found.seconds),
                max(found.seconds),
                found.parts,
            )
            for phase, found in timed.items()
        )
        spans = tuple(span for found in timed.values() for span in found.spans)
        shape = (batch, context, repeats)
        return (
            Profile(
                str(opened.path),
                backend,
                plain.device,
                library_version(backend),
                *shape,
                limits,
                phases,
                loops,
                tuple(notes),
            ),
            spans,
        )


def _settings(
    backend: str,
    device: str | None,
    threads: int | None,
    engines: str | os.PathLike[str] | None,
    trust: str | os.PathLike[str] | None,
) -> LoadSettings:
    """Return what the profiled backend is loaded with; no CUDA graphs, which would hide what is in them."""
    if threads is not None and backend != "onnxruntime":
        raise InputError(f"threads is for backend 'onnxruntime'; leave it out for {backend!r}")
    if device is not None and "," in device:
        raise InputError(f"device is {device!r}; a profile is of one device, like 'cuda:0'")
    settings = LoadSettings(device, threads, engines, trust, graph_level=0)
    if backend in ("onnxruntime", "torch"):
        settings.refuse_engines(backend)
    return settings


def _onnxruntime(
    bundle: Bundle, settings: LoadSettings, sizes: Sizes, repeats: int, notes: list[str]
) -> dict[Phase, Timed]:
    """Time every phase by ONNX Runtime's profiler: its k-th run of a session is the graph's k-th call."""
    with tempfile.TemporaryDirectory(prefix="ttc-profile-") as folder:
        backend, _, end = onnxruntime.open_profiled(bundle, settings.device, settings.threads, Path(folder))
        try:
            calls = make_calls(backend, sizes)
            clocked = {phase: clock(prepare, repeats) for phase, prepare in calls.items()}
            runs = end()
        finally:
            backend.close()
    itemsize = numpy_dtype("float32" if backend.notes else bundle.compute_dtype).itemsize
    found: dict[Phase, Timed] = {}
    done = dict.fromkeys(PHASES.values(), 0)
    for role in done:
        of_role = [phase for phase in calls if phase.role == role]
        if role not in runs:  # the host does it
            for phase in of_role:
                seconds = [end - start for start, end in clocked[phase]]
                fastest = clocked[phase][seconds.index(min(seconds))]
                part = onnxruntime.host_part(min(seconds), bundle.config, sizes.batch, phase, itemsize)
                found[phase] = Timed(seconds, (part,), (_call_span(phase, *fastest),))
            continue
        done[role] = len(runs[role]) - (WARM_UP + repeats) * len(of_role)  # what set the state up came first
        for phase in of_role:
            first = done[role] + WARM_UP
            done[role] = first + repeats
            own = runs[role][first : first + repeats]
            seconds = [end - start for start, end in clocked[phase]]
            best = seconds.index(min(seconds))
            parts = onnxruntime.parts_of(own[best], bundle.config, sizes.batch, phase, itemsize)
            found[phase] = Timed(seconds, parts, _spans(phase, clocked[phase][best], own[best]))
    return {phase: found[phase] for phase in calls}


def _spans(phase: Phase, clock: tuple[float, float], run: onnxruntime.Run) -> tuple[Span, ...]:
    """Return the call and its nodes on one clock; the run is laid to the end of the call."""
    begin, end = clock
    offset = (end - begin) * 1e6 - run.micros
    nodes = (
        Span(phase.name, node.name, node.op, begin * 1e6 + max(0.0, offset) + node.start, node.micros)
        for node in run.nodes
    )
    return (_call_span(phase, begin, end), *nodes)


def _call_span(phase: Phase, begin: float, end: float) -> Span:
    return Span(phase.name, phase.name, "backend call", begin * 1e6, (end - begin) * 1e6)


def _torch(
    bundle: Bundle, settings: LoadSettings, sizes: Sizes, repeats: int, notes: list[str]
) -> dict[Phase, Timed]:
    """Time every phase by clocks around the layers and ops of the eager towers."""
    marked = eager.open_marked(bundle, settings.device)
    try:
        found = {}
        for phase, prepare in make_calls(marked.backend, sizes).items():
            every: list[eager.Marks] = []
            clocked = clock(prepare, repeats, keeping(marked.record, every))
            marks = every[WARM_UP:]
            seconds = [end - start for start, end in clocked]
            best = seconds.index(min(seconds))
            itemsize = numpy_dtype(bundle.compute_dtype).itemsize
            parts, spans = eager.parts_of(
                marks[best], clocked[best], bundle.config, phase, sizes.batch, itemsize
            )
            found[phase] = Timed(seconds, parts, spans)
        return found
    finally:
        marked.backend.close()


_PROFILERS: Mapping[str, Callable[[Bundle, LoadSettings, Sizes, int, list[str]], dict[Phase, Timed]]] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    **{name: partial(profile_engines, name) for name in ENGINE_BACKENDS},
}


def _unprofiled(backend: Backend, sizes: Sizes, repeats: int) -> dict[str, float]:
    return {
        phase.name: min(end - start for start, end in clock(prepare, repeats))
        for phase, prepare in make_calls(backend, sizes).items()
    }


def _loops(backend: Backend, block_size: int) -> tuple[LoopTime, ...]:
    """Time a generation in each mode, after one that warms up."""
    engine = Engine(backend)
    found = []
    for mode in ("diffusion", "ar"):
        for tokens in (16, _LOOP_TOKENS):
            result = engine.generate(
                [1, 5, 9], mode=mode, max_new_tokens=tokens, block_size=block_size, stop_at_eos=False
            )
        assert isinstance(result, Result), "one prompt, one result"
        stats = result.stats
        found.append(LoopTime(mode, len(result.token_ids), stats.seconds, stats.backend_seconds))
    return tuple(found)


def _sizes(bundle: Bundle, batch: int, context: int, backend: Backend) -> Sizes:
    """Return the sizes that the model holds and the engines, if there are any, were built for."""
    limits, limit = backend.limits, bundle.config.max_position_embeddings
    check_rows(limits, batch)
    chunk = fitting_chunk(limits, backend.sizes.chunk)
    block = _BLOCK if limits is None else min(max(_BLOCK, limits.block[0]), limits.block[1])
    follows = max(chunk, block)
    if context + follows > limit:
        raise InputError(
            f"context is {context}, and a call of {follows} tokens follows; "
            f"the model holds {limit} tokens, so at most {limit - follows} is valid"
        )
    needed = context + follows
    capacity = fitting_capacity(limits, needed, min(limit, backend.sizes.bucket(needed)))
    return Sizes(batch, chunk, block, context, capacity)


def _given_limits(peak_flops: float | None, peak_bandwidth: float | None) -> dict[str, float]:
    given = {"flops_per_second": peak_flops, "bytes_per_second": peak_bandwidth}
    for name, value in given.items():
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} is {value}; valid: a number above 0")
    return {name: value for name, value in given.items() if value is not None}


def _limits(given: dict[str, float], device: str, notes: list[str]) -> dict[str, float]:
    """Return the limits that were given, completed by measured ones on the CPU."""
    if len(given) == 2:
        return given
    if device != "cpu":
        notes.append(
            "how near this is to the GPU's limits is not told; give both --peak-flops and --peak-bandwidth"
        )
        return {}
    notes.append(
        "the limits are what numpy reached here in a product of 512×512 and a copy of 16 MiB; "
        "give --peak-flops and --peak-bandwidth for the hardware's own"
    )
    return measure_limits() | given
