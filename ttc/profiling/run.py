"""`profile`: from a bundle to a report of where the time goes."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ttc.bundle import Bundle
from ttc.errors import InputError
from ttc.profiles import load_profile
from ttc.profiling import eager, onnxruntime
from ttc.profiling.costs import measure_limits
from ttc.profiling.phases import PHASES, Phase, Sizes, make_calls
from ttc.profiling.report import LoopTime, Part, PhaseProfile, Profile
from ttc.profiling.trace import Span
from ttc.runtime.backends.base import Backend
from ttc.runtime.engine import Engine
from ttc.runtime.result import Result
from ttc.shard import numpy_dtype
from ttc.verify.backends import library_version, open_candidate

__all__ = ["BACKENDS", "profile"]

BACKENDS = ("onnxruntime", "torch")
_WARM_UP = 3
_LOOP_TOKENS = 48

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Timed:
    """One phase as measured: seconds of its calls, the parts of the fastest one, and its spans."""

    seconds: list[float]
    parts: tuple[Part, ...]
    spans: tuple[Span, ...]


def profile(
    bundle: str | os.PathLike[str],
    backend: str = "onnxruntime",
    *,
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
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
        backend: "onnxruntime" or "torch"; the layers of TensorRT engines are not timed.
        device, checkpoint, threads: as in `ttc.load`.
        batch: rows.  context: tokens already read.  repeats: calls of each phase; the fastest is shown.
        peak_flops, peak_bandwidth: the hardware's limits, per second; None measures what numpy reaches.
        progress: called with a line of text before each piece of work.

    Returns:
        The profile, and its spans for a trace.

    Raises:
        InputError: an option is not valid.  BundleError, BackendError: as `ttc.load`.
    """
    say = progress or (lambda line: None)
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} tells no times of layers; valid: {', '.join(BACKENDS)}")
    for name, value in (("batch", batch), ("context", context), ("repeats", repeats)):
        if value < 1:
            raise InputError(f"{name} is {value}; valid: 1 or more")
    notes: list[str] = []
    limits = _limits(peak_flops, peak_bandwidth, notes)
    with Bundle.open(bundle, checkpoint) as opened:
        sizes = _sizes(opened, batch, context)
        say(f"{backend}: without a profiler")
        plain = open_candidate(backend, opened, device, layers=False, threads=threads)
        try:
            loops = _loops(plain.backend)
            unprofiled = _unprofiled(plain.backend, sizes, repeats)
            notes += plain.backend.notes
        finally:
            plain.backend.close()
        say(f"{backend}: with its profiler")
        timed = _PROFILERS[backend](opened, device, threads, sizes, repeats)
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


def _onnxruntime(
    bundle: Bundle, device: str | None, threads: int | None, sizes: Sizes, repeats: int
) -> dict[Phase, _Timed]:
    """Every phase by ONNX Runtime's profiler: its k-th run of a session is our k-th call of that graph."""
    with tempfile.TemporaryDirectory(prefix="ttc-profile-") as folder:
        backend, _, end = onnxruntime.open_profiled(bundle, device, threads, Path(folder))
        try:
            calls = make_calls(backend, sizes)
            clocked = {phase: _clock(call, repeats) for phase, call in calls.items()}
            runs = end()
        finally:
            backend.close()
    itemsize = numpy_dtype("float32" if backend.notes else bundle.compute_dtype).itemsize
    found: dict[Phase, _Timed] = {}
    done = dict.fromkeys(PHASES.values(), 0)
    for role in done:
        of_role = [phase for phase in calls if phase.role == role]
        done[role] = len(runs[role]) - (_WARM_UP + repeats) * len(of_role)  # what set the state up came first
        for phase in of_role:
            first = done[role] + _WARM_UP
            done[role] = first + repeats
            own = runs[role][first : first + repeats]
            seconds = [end - start for start, end in clocked[phase]]
            best = seconds.index(min(seconds))
            parts = onnxruntime.parts_of(own[best], bundle.config, sizes.batch, phase.tokens, itemsize)
            found[phase] = _Timed(seconds, parts, _spans(phase, clocked[phase][best], own[best]))
    return {phase: found[phase] for phase in calls}


def _spans(phase: Phase, clock: tuple[float, float], run: onnxruntime.Run) -> tuple[Span, ...]:
    """The call and its nodes on one clock; the run is laid to the end of the call."""
    begin, end = clock
    offset = (end - begin) * 1e6 - run.micros
    nodes = (
        Span(phase.name, node.name, node.op, begin * 1e6 + max(0.0, offset) + node.start, node.micros)
        for node in run.nodes
    )
    return (Span(phase.name, phase.name, "backend call", begin * 1e6, (end - begin) * 1e6), *nodes)


def _torch(
    bundle: Bundle, device: str | None, threads: int | None, sizes: Sizes, repeats: int
) -> dict[Phase, _Timed]:
    """Every phase by clocks around the layers and ops of the eager towers."""
    watched = eager.open_watched(bundle, device)
    try:
        found = {}
        for phase, call in make_calls(watched.backend, sizes).items():
            clocked, marks = [], []
            for number in range(_WARM_UP + repeats):
                start = time.perf_counter()
                marks_of = watched.record(call)
                if number >= _WARM_UP:
                    clocked.append((start, time.perf_counter()))
                    marks.append(marks_of)
            seconds = [end - start for start, end in clocked]
            best = seconds.index(min(seconds))
            itemsize = numpy_dtype(bundle.compute_dtype).itemsize
            parts, spans = eager.parts_of(
                marks[best], clocked[best], bundle.config, phase, sizes.batch, itemsize
            )
            found[phase] = _Timed(seconds, parts, spans)
        return found
    finally:
        watched.backend.close()


_PROFILERS: Mapping[str, Callable[[Bundle, str | None, int | None, Sizes, int], dict[Phase, _Timed]]] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
}


def _clock(call: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Begin and end of each call after the warm-up."""
    for _ in range(_WARM_UP):
        call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append((start, time.perf_counter()))
    return found


def _unprofiled(backend: Backend, sizes: Sizes, repeats: int) -> dict[str, float]:
    return {
        phase.name: min(end - start for start, end in _clock(call, repeats))
        for phase, call in make_calls(backend, sizes).items()
    }


def _loops(backend: Backend) -> tuple[LoopTime, ...]:
    """A generation in each mode, after one that warms up."""
    engine = Engine(backend, None, load_profile("cpu"), None)
    found = []
    for mode in ("diffusion", "ar"):
        for tokens in (16, _LOOP_TOKENS):
            result = engine.generate([1, 5, 9], mode=mode, max_new_tokens=tokens, stop_at_eos=False)
        assert isinstance(result, Result), "one prompt, one result"
        stats = result.stats
        found.append(LoopTime(mode, len(result.token_ids), stats.seconds, stats.backend_seconds))
    return tuple(found)


def _sizes(bundle: Bundle, batch: int, context: int) -> Sizes:
    shapes = load_profile("cpu")
    chunk = shapes.prefill_chunk
    needed = context + max(chunk, 16)
    limit = bundle.config.max_position_embeddings
    if needed > limit:
        raise InputError(
            f"context is {context}, and a call of {max(chunk, 16)} tokens follows; "
            f"the model holds {limit} tokens, so at most {limit - max(chunk, 16)} is valid"
        )
    return Sizes(batch, chunk, 16, context, min(limit, shapes.capacity_for(needed)))


def _limits(peak_flops: float | None, peak_bandwidth: float | None, notes: list[str]) -> dict[str, float]:
    given = {"flops_per_second": peak_flops, "bytes_per_second": peak_bandwidth}
    for name, value in given.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} is {value}; valid: a number above 0")
    known = {name: value for name, value in given.items() if value is not None}
    if len(known) == len(given):
        return known
    notes.append(
        "the limits are what numpy reached here in a product of 512×512 and a copy of 16 MiB; "
        "give --peak-flops and --peak-bandwidth for the hardware's own"
    )
    return measure_limits() | known
