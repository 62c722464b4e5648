"""A tower of a bundle, and a whole generation, as runners of Polygraphy.

Inputs and outputs have the names of the graphs (`ttc.model.graphs`), so that what one of these
computes can be compared with what any other runner computes from the ONNX file.
"""

import time
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ttc.model.bundle import Bundle
from ttc.model.graphs import is_kv_cache, new_name
from ttc.polygraphy_ext.inputs import GRAPHS, input_types
from ttc.runtime.decoding.options import GenerationOptions
from ttc.runtime.decoding.result import Event
from ttc.runtime.engine import Engine
from ttc.runtime.interface.backend import Backend
from ttc.verify.backends import open_candidate, open_reference

__all__ = ["REFERENCE", "LoopRunner", "TowerRunner"]

# Name of the torch towers in float32 where a backend is asked for.
REFERENCE = "reference"

Outputs = OrderedDict[str, npt.NDArray[Any]]


class _BundleRunner(BaseRunner):  # type: ignore[misc]
    """Opens a bundle on a backend while it is active."""

    def __init__(self, bundle: str, backend: str, device: str | None, trust: str | None, name: str) -> None:
        super().__init__(name=name, prefix=f"ttc-{backend}")
        self._path, self._backend_name, self._device, self._trust = bundle, backend, device, trust

    def activate_impl(self) -> None:
        with Bundle.open(self._path, trust=self._trust) as bundle:
            if self._backend_name == REFERENCE:
                self._backend: Backend = open_reference(bundle, "float32").backend
            else:
                self._backend = open_candidate(
                    self._backend_name, bundle, self._device, layers=False, trust=self._trust
                ).backend

    def deactivate_impl(self) -> None:
        self._backend.close()
        del self._backend


class TowerRunner(_BundleRunner):
    """One tower on a backend of ours.

    Args:
        bundle: its folder.
        graph: "context" or "denoiser".
        backend: as `ttc.load` knows it, or `REFERENCE`.
        device, trust: as in `ttc.load`.
    """

    def __init__(
        self,
        bundle: str,
        graph: str,
        backend: str = "onnxruntime",
        device: str | None = None,
        trust: str | None = None,
    ) -> None:
        super().__init__(bundle, backend, device, trust, f"ttc {backend} {graph}")
        assert graph in GRAPHS, f"graph {graph!r}, checked with the options"
        self._graph = graph

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Return the graph's inputs."""
        with Bundle.open(self._path, trust=self._trust) as bundle:
            metadata = TensorMetadata()
            for name, (dtype, shape) in input_types(bundle, self._graph).items():
                metadata.add(name, dtype, shape)
            return metadata

    def infer_impl(self, feed_dict: dict[str, npt.NDArray[Any]]) -> Outputs:
        """Run the tower; of the context tower the new state follows the logits."""
        backend, feeds = self._backend, {name: np.asarray(value) for name, value in feed_dict.items()}
        caches = [array for name, array in feeds.items() if is_kv_cache(name)]
        capacity = caches[0].shape[2] if caches else int(feeds["lengths"].max()) + 512
        state = backend.write_state(capacity, feeds["lengths"], feeds)
        start = time.perf_counter()
        if self._graph == "denoiser":
            logits = backend.fetch(backend.denoise(state, feeds["block_ids"], feeds["t"]))
        else:
            call = backend.context(state, feeds["input_ids"], feeds["commit_len"], feeds["logit_positions"])
            logits = backend.fetch(call.logits)
        self.inference_time = time.perf_counter() - start
        outputs: Outputs = OrderedDict(logits=logits)
        if self._graph == "context":
            after = backend.read_state(state)
            outputs.update((new_name(name), array) for name, array in after.items())
        return outputs


class LoopRunner(_BundleRunner):
    """A whole generation by mask diffusion: prompt_ids (1, N) → token_ids (M,), the confidence each was
    committed with (M,), and nfe (1,).

    Args:
        bundle, backend, device, trust: as for `TowerRunner`.
        max_new_tokens, threshold: of the generation.
    """

    def __init__(
        self,
        bundle: str,
        backend: str = "onnxruntime",
        device: str | None = None,
        max_new_tokens: int = 32,
        threshold: float = 0.9,
        trust: str | None = None,
    ) -> None:
        super().__init__(bundle, backend, device, trust, f"ttc {backend} loop")
        self._options = GenerationOptions(
            max_new_tokens=max_new_tokens, threshold=threshold, stop_at_eos=False
        )

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Return the prompt."""
        return TensorMetadata().add("prompt_ids", np.int32, (1, None))

    def infer_impl(self, feed_dict: dict[str, npt.NDArray[Any]]) -> Outputs:
        """Generate."""
        engine = Engine(self._backend)
        start = time.perf_counter()
        tokens: list[int] = []
        confidence: list[float] = []
        nfe, block = 0, _Block()
        for event in engine.stream(np.asarray(feed_dict["prompt_ids"])[0].tolist(), self._options):
            if event.committed:
                tokens += event.token_ids
                confidence += block.confidence[: len(event.token_ids)]
                block = _Block()
            else:
                nfe += 1
                block.take(event)
        self.inference_time = time.perf_counter() - start
        return OrderedDict(
            token_ids=np.array(tokens, np.int32),
            confidence=np.array(confidence, np.float32),
            nfe=np.array([nfe], np.int32),
        )


class _Block:
    """Confidences of a block being filled: a position keeps the one of the step that committed it."""

    def __init__(self) -> None:
        self.confidence: list[float] = []

    def take(self, event: Event) -> None:
        assert event.confidence is not None, "a step has confidences"
        if not self.confidence:
            self.confidence = [0.0] * len(event.token_ids)
        for position, (share, masked) in enumerate(zip(event.confidence, event.masked, strict=True)):
            if share is not None and not masked:
                self.confidence[position] = share
