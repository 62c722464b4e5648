"""The interface between the loop and a backend: a few calls over tensors the backend owns.

Logits stay the backend's too: `step` and `choose` make tokens of them where they lie, `fetch` brings them to
the host. They are valid until the next call on the same state.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.errors import BackendError
from ttc.model.config import ModelConfig
from ttc.plugins.diffusion_step import naive_numpy as commit
from ttc.runtime.interface.sampling import LazySamples, SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["Backend", "BlockInputs", "ContextCall", "Limits", "StepInputs", "StepOutputs"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ContextCall:
    """What a context call gives, both the backend's own: logits (B, R, V) for `fetch` and `choose`, and what
    `advance` needs.
    """

    logits: Any
    saved: Any


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The small inputs of a diffusion step, all on the host: block_ids (B, L), the others (B,).

    `row_key` comes from `counter_rng.row_key`; `position` is where the block's first token stands in the
    sequence; `step` counts the steps already taken in this block; `steps_left` includes this one.
    """

    block_ids: Ints
    threshold: Floats
    temperature: Floats
    row_key: npt.NDArray[np.int64]
    position: Ints
    step: Ints
    steps_left: Ints


@dataclass(frozen=True, slots=True)
class StepOutputs:
    """Next block (B, L), predictions (B, L), confidences (B, L) (+inf where nothing was masked), still masked
    (B,).
    """

    next_block_ids: Ints
    predicted_ids: Ints
    confidence: Floats
    masked_count: Ints


@dataclass(frozen=True, slots=True)
class BlockInputs:
    """A block to fill, on the host: block_ids (B, L) with the mask id where undecided, the others (B,).

    steps: at most so many denoiser evaluations.
    redraw: with a temperature, draw anew in every step; otherwise all steps take the noise that AR has at
        these positions, which makes a better draft, not another text.
    """

    block_ids: Ints
    steps: int
    threshold: Floats
    temperature: Floats
    row_key: npt.NDArray[np.int64]
    redraw: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest and largest sizes that a backend can run, both included.

    rows of a batch; tokens of a denoiser's block; tokens that a context call reads; positions it gives logits
    for; capacity. `lengths`: the only numbers of tokens that a context call reads; empty where it reads any.
    """

    batch: tuple[int, int]
    block: tuple[int, int]
    reads: tuple[int, int]
    positions: tuple[int, int]
    capacity: tuple[int, int]
    lengths: tuple[int, ...] = ()


class Backend(ABC):
    """Runs the towers of one model. All calls are thread-safe; a `ContextState` belongs to one thread at a
    time.

    Attributes:
        name: as `ttc.load` knows it.
        config: the model.
        notes: what is not as the bundle asks (conversions, fallbacks), one sentence each.
        can_advance: whether `advance` is available; old bundles lack its graph.
        limits: sizes it can run; None where any will do.
        graph_level: 0 the host starts every kernel, 1 one CUDA graph per step, 2 one per block; None where
            there are no CUDA graphs.
        threads: of the CPU, for one call; None where a GPU computes.
    """

    name: str
    config: ModelConfig
    notes: Sequence[str]
    can_advance: bool = True
    limits: Limits | None = None
    graph_level: int | None = None
    threads: int | None = None

    @property
    @abstractmethod
    def device_name(self) -> str:
        """Where it computes, as a user names it: "cpu", "cuda:N", or both GPUs with a comma between them."""

    @abstractmethod
    def new_state(self, batch: int, capacity: int) -> ContextState:
        """An empty state for B rows and `capacity` tokens."""

    @abstractmethod
    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
    ) -> ContextCall:
        """Read a block (B, L) with the context tower and move the state past its first `commit_len` (B,)
        tokens.

        The caller keeps lengths + L ≤ capacity. `logit_positions` (B, R) are positions in the block, R ≥ 1.
        With `save` the result can be given to `advance`.
        """

    @abstractmethod
    def advance(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        """Move the state past the first `commit_len` tokens of the block the last `context` call read and did
        not commit.
        """

    @abstractmethod
    def denoise(self, state: ContextState, block_ids: Ints, t: Floats) -> Any:
        """Evaluate the denoiser on a block (B, L); a negative t (B,) switches conditioning off. Logits stay
        the backend's.
        """

    @abstractmethod
    def fetch(self, logits: Any) -> Floats:
        """Logits of `context` (B, R, V) or `denoise` (B, L, V) as a float32 array on the host."""

    @abstractmethod
    def select(self, state: ContextState, rows: Ints) -> ContextState:
        """A state of only these rows, in this order."""

    def sample_next(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
    ) -> tuple[SampledTokens, Any]:
        """Call `context`; return a token sampled at every requested position, and what `advance` needs.

        `logit_positions` are consecutive. A backend that keeps its logits elsewhere chooses
        in the same call.
        """
        call = self.context(state, input_ids, commit_len, logit_positions, save)
        return self.sample(call.logits, how), call.saved

    def sample(self, logits: Any, how: SamplingParams) -> SampledTokens:
        """AR's tokens from logits of `context` or `denoise`; here on the host."""
        return LazySamples(self.fetch(logits), how)

    def step(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        """One diffusion step on the host; backends that hold their logits elsewhere do it there."""
        return host_step(self.fetch(logits), inputs, self.config.mask_token_id)

    def fill_block(self, state: ContextState, inputs: BlockInputs) -> Iterator[StepOutputs]:
        """Denoise a block until nothing is masked; the outputs of every step, in order.

        Here the host steps. A backend that keeps the loop elsewhere may give all steps when the block is
        done.
        """
        block, B, L = inputs.block_ids, *inputs.block_ids.shape
        masked_count = (block == self.config.mask_token_id).sum(-1)
        for step in range(inputs.steps):
            if not masked_count.any():
                return
            logits = self.denoise(state, block, (masked_count / L).astype(np.float32))
            draw = np.full(B, step if inputs.redraw else 0, np.int32)
            left = np.full(B, inputs.steps - step, np.int32)
            small = (inputs.threshold, inputs.temperature, inputs.row_key, state.lengths, draw, left)
            outputs = self.step(logits, StepInputs(block, *small))
            yield outputs
            block, masked_count = outputs.next_block_ids, outputs.masked_count

    def warm_up(self, batch: int, capacity: int, block_size: int, chunk: int) -> None:
        """Make ready what is otherwise made at the first calls of these sizes; here that is nothing."""
        return

    def read_state(self, state: ContextState) -> dict[str, Floats]:
        """All state tensors on the host in float32, under their graph names (`ttc verify` compares them)."""
        raise BackendError(f"backend {self.name!r} does not show its state; compare logits and tokens only")

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        """A state out of host arrays under their graph names; the counterpart of `read_state`."""
        raise BackendError(f"backend {self.name!r} takes no state from outside; start from a prompt")

    @abstractmethod
    def close(self) -> None:
        """Free weights and sessions; a second call does nothing."""


def host_step(logits: Floats, inputs: StepInputs, mask_id: int) -> StepOutputs:
    """The diffusion step in numpy."""
    uniform = None
    if (inputs.temperature > 0).any():
        uniform = commit.uniforms(inputs.row_key, inputs.position, inputs.step, logits.shape[1:])
    predicted, confidence = commit.predict(logits, inputs.block_ids, inputs.temperature, uniform, mask_id)
    next_block, masked = commit.commit(
        inputs.block_ids, predicted, confidence, inputs.threshold, inputs.steps_left, mask_id
    )
    return StepOutputs(next_block, predicted, confidence, masked)
