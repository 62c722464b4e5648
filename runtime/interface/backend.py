"""The interface of a backend: a few calls over tensors that the backend owns.

A state holds rows that come and go. A call is about some of them, named by their row numbers (`rows`,
ascending; None for all); its arrays have one entry per named row, and the other rows stay as they are. Logits
stay the backend's: `step` and `sample` make tokens of them where they lie, `fetch` brings them to the host.
They are valid until the next call on the same state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.base.machine import free_bytes
from ttc.errors import BackendError
from ttc.model.config import ModelConfig
from ttc.plugins.diffusion_step import naive_numpy as commit
from ttc.runtime.interface.sampling import LazySamples, SampledTokens, SamplingParams
from ttc.runtime.interface.sizes import CPU_SIZES, GPU_SIZES, UsualSizes
from ttc.runtime.interface.state import ContextState, RowPiece

__all__ = ["Backend", "BlockInputs", "ContextCall", "Limits", "StepInputs", "StepOutputs", "host_step"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ContextCall:
    """What a context call gives, both the backend's own: logits (B, R, V) for `fetch` and `sample`, and what
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
    """Blocks to fill that begin together, on the host: block_ids (B, L) with the mask id where undecided, the
    others (B,).

    Attributes:
        steps: the most denoiser evaluations of each.
    """

    block_ids: Ints
    steps: int
    threshold: Floats
    temperature: Floats
    row_key: npt.NDArray[np.int64]


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
        pages_state: whether a row takes memory for the tokens that it has, not for its state's capacity: then
            there need be one state only.
        shares_state: whether rows of all lengths should sit in one state and so share calls: where a call
            reads the weights once for all of its rows, as on a GPU. On a CPU a call costs as much as it has
            rows, and attention over a neighbour's capacity would be added to it.
        can_save_rows: whether `save_row` and `load_row` are available, which the prefix cache needs.
        skips_logits: whether `context` may be asked for logits at no position, and then computes none.
        limits: sizes it can run; None where any will do.
        graph_level: 0 the host starts every kernel, 1 one CUDA graph per step, 2 one per block; None where
            there are no CUDA graphs.
        threads: of the CPU, for one call; None where a GPU computes.
    """

    name: str
    config: ModelConfig
    notes: Sequence[str]
    can_advance: bool = True
    can_save_rows: bool = False
    shares_state: bool = False
    pages_state: bool = False
    skips_logits: bool = False
    limits: Limits | None = None
    graph_level: int | None = None
    threads: int | None = None

    @property
    @abstractmethod
    def device_name(self) -> str:
        """Where it computes, as a user names it: "cpu", "cuda:N", or both GPUs with a comma between them."""

    @property
    def sizes(self) -> UsualSizes:
        """What suits the processor, where nobody asks for a size."""
        return CPU_SIZES if self.device_name == "cpu" else GPU_SIZES

    @abstractmethod
    def new_state(self, batch: int, capacity: int) -> ContextState:
        """Return an empty state of B rows for `capacity` tokens each."""

    def release(self, state: ContextState) -> None:
        """Take back a state that nobody will use any more. Where its memory is worth keeping, a backend makes
        the next state of it; here it goes with the last reference.
        """
        return

    @property
    def spare_bytes(self) -> int:
        """Size of the memory of states that were released and are kept."""
        return 0

    @abstractmethod
    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        rows: Ints | None = None,
    ) -> ContextCall:
        """Read a block (B, L) with the context tower and move the rows past its first `commit_len` (B,)
        tokens.

        The caller keeps lengths + L ≤ capacity. `logit_positions` (B, R) are positions in the block, R ≥ 1;
        with `skips_logits` R may be 0, and there are no logits to ask for.
        With `save` the result can be given to `advance`.
        """

    @abstractmethod
    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        """Move the rows past the first `commit_len` tokens of the block that the last `context` call read and
        did not commit; `rows` are those of that call.
        """

    @abstractmethod
    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> Any:
        """Evaluate the denoiser on a block (B, L); a negative t (B,) switches conditioning off. Logits stay
        the backend's.
        """

    @abstractmethod
    def fetch(self, logits: Any) -> Floats:
        """Return logits of `context` (B, R, V) or `denoise` (B, L, V) as a float32 array on the host."""

    @abstractmethod
    def resize(self, state: ContextState, batch: int) -> None:
        """Change the number of rows. Those that stay keep what they hold; new ones are empty."""

    @abstractmethod
    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        """Make these rows empty again, whatever they held."""

    @abstractmethod
    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        """Copy one row into row `to` of a state whose capacity holds it; the two may be the same state."""

    def move_row(self, state: ContextState, row: int, to: int) -> None:
        """Move one row into an empty one of the same state, and leave it empty."""
        self.copy_row(state, row, state, to)
        self.clear_rows(state, np.array([row], np.int32))

    def extend(self, state: ContextState, capacity: int) -> bool:
        """Give a state another capacity, which holds its rows, where that copies none of them; return whether
        it has it now.
        """
        return False

    def select(self, state: ContextState, rows: Ints) -> ContextState:
        """Return a copy of only these rows, in this order."""
        chosen = self.new_state(len(rows), state.capacity)
        for i, row in enumerate(rows.tolist()):
            self.copy_row(state, row, chosen, i)
        return chosen

    def sample_next(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
        rows: Ints | None = None,
    ) -> tuple[SampledTokens, Any]:
        """Read as `context` does; return a token sampled from the logits of every requested position, and
        what `advance` needs.

        `logit_positions` are consecutive. A backend that keeps its logits elsewhere samples in the same call.
        """
        call = self.context(state, input_ids, commit_len, logit_positions, save, rows)
        return self.sample(call.logits, how), call.saved

    def sample(self, logits: Any, how: SamplingParams) -> SampledTokens:
        """Return AR's tokens from logits of `context` or `denoise`; here on the host."""
        return LazySamples(self.fetch(logits), how)

    def step(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        """Take one diffusion step, here on the host; a backend that keeps its logits takes it there."""
        return host_step(self.fetch(logits), inputs, self.config.mask_token_id)

    def denoise_step(
        self, state: ContextState, t: Floats, inputs: StepInputs, rows: Ints | None = None
    ) -> StepOutputs:
        """Evaluate the denoiser and take the diffusion step; where it can, a backend does both at once."""
        return self.step(self.denoise(state, inputs.block_ids, t, rows), inputs)

    def fill_blocks(
        self, state: ContextState, inputs: BlockInputs, rows: Ints | None = None
    ) -> Sequence[StepOutputs] | None:
        """Fill blocks until nothing is masked, in one launch; return the outputs of every step, in order.

        None where that is not possible, or not yet: then the caller steps.
        """
        return None

    def call_length(self, length: int) -> int:
        """Return how many tokens a context call over `length` tokens really reads: rows of equal ones can
        share a call.
        """
        return length

    @property
    def free_piece_bytes(self) -> int | None:
        """Free bytes of the memory that saved rows take; None where nobody says."""
        return free_bytes()

    def reserve_pieces(self, nbytes: int, tokens: int) -> None:
        """Take at once the memory for saved rows, up to so many bytes of them, of so many tokens each; here
        it is taken when it is needed.
        """
        return

    def save_row(self, state: ContextState, row: int, start: int) -> RowPiece:
        """Return a copy of what the row holds, of its keys and values those from token `start` on."""
        raise BackendError(f"backend {self.name!r} keeps no copies of rows; leave out prefix_cache_bytes")

    def load_row(self, state: ContextState, row: int, pieces: Sequence[RowPiece]) -> None:
        """Fill an empty row with consecutive pieces, the first from token 0 on."""
        raise BackendError(f"backend {self.name!r} keeps no copies of rows; leave out prefix_cache_bytes")

    def warm_up(self, batch: int, capacity: int, block_size: int, chunk: int) -> None:
        """Prepare what is otherwise prepared at the first calls of these sizes; here that is nothing."""
        return

    def read_state(self, state: ContextState, rows: Ints | None = None) -> dict[str, Floats]:
        """Copy the state tensors of these rows to the host in float32, under their graph names."""
        raise BackendError(f"backend {self.name!r} does not show its state; compare logits and tokens only")

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        """Return a state made of host arrays under their graph names; the counterpart of `read_state`."""
        raise BackendError(f"backend {self.name!r} takes no state from outside; start from a prompt")

    @abstractmethod
    def close(self) -> None:
        """Release weights and sessions; a second call does nothing."""


def host_step(logits: Floats, inputs: StepInputs, mask_id: int) -> StepOutputs:
    """Take the diffusion step in numpy."""
    uniform = None
    if (inputs.temperature > 0).any():
        uniform = commit.uniforms(inputs.row_key, inputs.position, inputs.step, logits.shape[1:])
    predicted, confidence = commit.predict(logits, inputs.block_ids, inputs.temperature, uniform, mask_id)
    next_block, masked = commit.commit(
        inputs.block_ids, predicted, confidence, inputs.threshold, inputs.steps_left, mask_id
    )
    return StepOutputs(next_block, predicted, confidence, masked)
