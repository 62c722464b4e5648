"""Stages of `benchmarks.gpu` that run whole towers of random weights.

A call uses one tower, so one is on the GPU at a time; with less memory than a tower takes, the first layers
only are measured, and every line says so.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks import gpu_reckoning as reckoning
from benchmarks.gpu_measuring import CONTEXT_TOKENS, Bench
from benchmarks.gpu_timing import Ceilings
from ttc.model.weights import CONTEXT, DENOISER

__all__ = ["blocks", "eager", "steps"]

Lines = Iterator[dict[str, Any]]


def steps(bench: Bench, ceilings: Ceilings) -> Lines:
    """Yield a step of every kind, batch and number of experts hit, denoise steps first."""
    for tower in (DENOISER, CONTEXT):
        with bench.tower(tower) as weights:
            for work in bench.works(tower):
                seconds, in_force = bench.seconds(weights, work)
                row = reckoning.row(bench.config, work, seconds, CONTEXT_TOKENS, ceilings.read_bytes)
                yield row | {"layers": bench.config.num_layers} | in_force


def blocks(bench: Bench, ceilings: Ceilings) -> Lines:
    """Yield whole blocks, then context calls, at every graph level."""
    layers = {"layers": bench.config.num_layers}
    with bench.tower(DENOISER) as weights:
        for line in bench.filled_blocks(weights):
            yield {"what": "block"} | line | layers
    with bench.tower(CONTEXT) as weights:
        for line in bench.context_calls(weights):
            yield line | layers


def eager(bench: Bench, ceilings: Ceilings) -> Lines:
    """Yield a step by graphs and kernels beside the same step by eager towers and naive ops."""
    for tower in (DENOISER, CONTEXT):
        with bench.tower(tower) as weights:
            work = bench.works(tower)[0]
            fast, in_force = bench.seconds(weights, work)
            slow, _ = bench.seconds(weights, work, eager=True)
            line = {"what": work.kind, "batch": work.batch, "ms": fast * 1e3, "eager_ms": slow * 1e3}
            yield line | in_force
