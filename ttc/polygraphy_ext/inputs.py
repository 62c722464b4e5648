"""Inputs that a tower can be given: ids in range, a state from a real prefill, weights where the graph takes
them as inputs.

Random numbers will not do: lengths index the cache, ids index tables, and a state of noise is nothing that a
context could leave.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.errors import InputError
from ttc.model.bundle import Bundle
from ttc.runtime.backends import load_backend
from ttc.runtime.interface.settings import LoadSettings
from ttc.runtime.interface.sizes import CPU_SIZES

__all__ = ["GRAPHS", "LOOP", "BundleInputs", "input_types"]

# The graphs that a runner exists for, and the whole generation.
GRAPHS = ("context", "denoiser")
LOOP = "loop"

Feed = dict[str, npt.NDArray[Any]]


class BundleInputs:
    """A Polygraphy data loader: `iterations` sets of inputs for one graph of a bundle, or for generations.

    Args:
        bundle: its folder.
        graph: one of `GRAPHS`, or `LOOP`.
        iterations: sets of inputs.
        seed: the same seed gives the same inputs.
        context: tokens that the state has read.
        block: tokens of a block.
        trust: as in `ttc.load`.
    """

    def __init__(
        self,
        bundle: str,
        graph: str,
        iterations: int | None = None,
        seed: int | None = None,
        context: int = 24,
        block: int = 16,
        trust: str | None = None,
    ) -> None:
        if graph not in (*GRAPHS, LOOP):
            raise InputError(f"graph is {graph!r}; valid: {', '.join((*GRAPHS, LOOP))}")
        self._bundle, self._graph = bundle, graph
        self._iterations, self._seed = iterations or 1, seed or 1
        self._context, self._block, self._trust = context, block, trust

    def __len__(self) -> int:
        return self._iterations

    def __iter__(self) -> Iterator[Feed]:
        with Bundle.open(self._bundle, trust=self._trust) as bundle:
            for number in range(self._iterations):
                draw = np.random.default_rng([self._seed, number])
                if self._graph == LOOP:
                    ids = draw.integers(0, bundle.config.vocab_size, (1, self._context))
                    yield {"prompt_ids": ids.astype(np.int32)}
                else:
                    yield self._tower(bundle, draw)

    def _tower(self, bundle: Bundle, draw: np.random.Generator) -> Feed:
        config, B, L = bundle.config, 1, self._block
        capacity = CPU_SIZES.bucket(self._context + L)
        backend = load_backend("onnxruntime", bundle, LoadSettings("cpu"))
        try:
            state = backend.new_state(B, capacity)
            prompt = draw.integers(0, config.vocab_size, (B, self._context)).astype(np.int32)
            for start in range(0, self._context, CPU_SIZES.chunk):
                piece = prompt[:, start : start + CPU_SIZES.chunk]
                width = piece.shape[1]
                backend.context(state, piece, np.array([width], np.int32), np.array([[width - 1]], np.int32))
            tensors = backend.read_state(state)
        finally:
            backend.close()
        block = draw.integers(0, config.vocab_size, (B, L)).astype(np.int32)
        feed: Feed = {"lengths": state.lengths}
        if self._graph == "context":
            feed |= {"input_ids": block, "commit_len": np.array([L], np.int32)}
            feed["logit_positions"] = np.arange(L, dtype=np.int32)[None]
        else:
            masked = draw.random((B, L)) < 0.5
            feed["block_ids"] = np.where(masked, config.mask_token_id, block).astype(np.int32)
            feed["t"] = masked.mean(axis=1).astype(np.float32)
        wanted = input_types(bundle, self._graph)
        feed |= {name: array.astype(wanted[name][0]) for name, array in tensors.items() if name in wanted}
        feed |= {name: bundle.read_weight(name) for name in wanted if name in bundle.weights}
        return {name: feed[name] for name in wanted}


def input_types(bundle: Bundle, graph: str) -> dict[str, tuple[np.dtype[Any], list[int | None]]]:
    """Return the graph's inputs in order, with dtype and shape, None for an open dimension; weights of a
    bundle by reference are among them.
    """
    model = bundle.read_graph(graph)
    found: dict[str, tuple[np.dtype[Any], list[int | None]]] = {}
    for value in model.graph.inputs:
        assert value.dtype is not None, f"graph input {value.name} has no dtype"
        assert value.shape is not None, f"graph input {value.name} has no shape"
        shape = [dim if isinstance(dim, int) else None for dim in value.shape]
        found[str(value.name)] = value.dtype.numpy(), shape
    return found
