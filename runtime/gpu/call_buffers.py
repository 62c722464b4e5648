"""One call of a backend: its inputs and outputs at fixed addresses, and the work and graphs over them."""

from ttc.runtime.gpu.block_loop import BlockLoop
from ttc.runtime.gpu.call_place import CallPlace
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.cuda_graphs import StepGraph
from ttc.runtime.gpu.device import DeviceArray, Enqueue
from ttc.runtime.gpu.executor import (
    CONTEXT_INPUTS,
    DENOISER_INPUTS,
    SAMPLING_INPUTS,
    SAMPLING_OUTPUTS,
    STEP_INPUTS,
    STEP_OUTPUTS,
)
from ttc.runtime.gpu.packed_buffer import PackedBuffer

__all__ = ["AdvanceBuffers", "BlockBuffers", "ContextBuffers"]


def _nothing() -> None:
    """The choice of no token."""


class ContextBuffers:
    """A context call over L tokens with logits at R positions.

    Args:
        positions: R; with 0, which only an executor takes that `skips_logits`, no token is chosen either.
        save: leave what `advance` needs.

    Attributes:
        inputs: the small inputs of the call, and those of sampling.
        step: runs the call, moves the state and makes `samples` of the logits.
    """

    def __init__(self, state: CallPlace, length: int, positions: int, save: bool) -> None:
        runtime, scope, sizes = state.runtime, state.scope, state.sizes(length, positions)
        read = {**CONTEXT_INPUTS, **state.placement}
        inputs = self.inputs = PackedBuffer(scope, {**read, **SAMPLING_INPUTS}, sizes)
        self._chosen: tuple[DeviceArray, PackedBuffer] | None = None
        own = {name: inputs.device[name] for name in read}
        sample: Enqueue = _nothing
        if positions:
            logits, samples = state.logits(positions), PackedBuffer(scope, SAMPLING_OUTPUTS, sizes)
            self._chosen, own["logits"] = (logits, samples), logits
            sample = state.bind_sampling(inputs, logits, samples, sizes)
        else:
            del own["logit_positions"]
        tensors = own | state.state | state.new_state | state.new_kv(length)
        if save:
            tensors |= state.saved(length)
        work = runtime.executor.bind(scope, "context", tensors, sizes)

        is_first = True

        def run() -> None:
            nonlocal is_first
            if is_first:
                # Of whatever logits: where memory is short the run is made again, and then the state must not
                # have moved yet.
                sample()
                is_first = False
            work()
            state.commit(inputs, length)
            sample()

        self.step = StepGraph(scope.device, runtime.graphs, f"a context call over {length} tokens", run)

    @property
    def logits(self) -> DeviceArray:
        """(B, R, V), of the executor's `logits_dtype`; R is not 0."""
        return self._choice()[0]

    @property
    def samples(self) -> PackedBuffer:
        """The sampled tokens, `SAMPLING_OUTPUTS`; R is not 0."""
        return self._choice()[1]

    def _choice(self) -> tuple[DeviceArray, PackedBuffer]:
        assert self._chosen is not None, "the call was for no token"
        return self._chosen

    def close(self) -> None:
        """Let go of the graph."""
        self.step.close()


class AdvanceBuffers:
    """Moving the state over the saved inputs of a context call over L tokens.

    Attributes:
        inputs: `commit_len` (B,), and where the rows lie.
        step: runs it.
    """

    def __init__(self, state: CallPlace, length: int) -> None:
        scope, runtime, sizes = state.scope, state.runtime, state.sizes(length)
        self.inputs = PackedBuffer(scope, {"commit_len": ("int32", ("B",)), **state.placement}, sizes)
        tensors = self.inputs.device | state.saved(length) | state.mamba | state.new_state
        work = runtime.executor.bind(scope, "advance", tensors, sizes)

        def run() -> None:
            work()
            state.commit_mamba()

        self.step = StepGraph(scope.device, runtime.graphs, f"advancing by {length} tokens", run)

    def close(self) -> None:
        """Let go of the graph."""
        self.step.close()


class BlockBuffers:
    """Denoising a block of L tokens.

    Attributes:
        inputs, outputs: of a step.
        logits: (B, L, V), of the executor's `logits_dtype`.
        denoise, commit: the two halves of a step, each on its own.
        sample: AR's sampling in place of the second half.
        fill: both halves.
        loop: fills a whole block; None where there is no kernel for it.
    """

    def __init__(self, state: CallPlace, length: int) -> None:
        runtime, scope, B = state.runtime, state.scope, state.batch
        device, graphs, sizes = scope.device, runtime.graphs, state.sizes(length)
        self.inputs = PackedBuffer(scope, {**STEP_INPUTS, **DENOISER_INPUTS, **state.placement}, sizes)
        self.outputs = PackedBuffer(scope, STEP_OUTPUTS, sizes)
        self.logits = state.logits(length)
        small, logits = self.inputs.device, {"logits": self.logits}
        read = {name: small[name] for name in (*DENOISER_INPUTS, *state.placement)}
        denoise = runtime.executor.bind(scope, "denoiser", read | state.state | logits, sizes)
        # The step graph's own t is not used: the host or the loop's kernel writes the next one.
        unused = {"t": scope.array("float32", (B,))}
        read = {name: small[name] for name in STEP_INPUTS}
        commit = runtime.executor.bind(scope, "step", read | logits | self.outputs.device | unused, sizes)

        def step() -> None:
            denoise()
            commit()

        what = f"a denoise step over {length} tokens"
        self.denoise = StepGraph(device, graphs, what, denoise)
        self.commit = StepGraph(device, graphs, "a diffusion step", commit)
        sample = state.bind_sampling(self.inputs, self.logits, self.outputs, state.sizes(length, length))
        self.sample = StepGraph(device, graphs, "a choice of tokens", sample)
        self.fill = StepGraph(device, graphs, what, step)
        self.loop: BlockLoop | None = None
        if runtime.block_kernel is not None:
            self.loop = BlockLoop(scope, graphs, runtime.block_kernel, step, small, self.outputs.device)

    def close(self) -> None:
        """Let go of the graphs. Never raises."""
        graphs = (self.denoise, self.commit, self.sample, self.fill, self.loop)
        close_all(graph.close for graph in graphs if graph is not None)
