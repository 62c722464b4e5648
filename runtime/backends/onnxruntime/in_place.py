"""The backend over sessions with ONNX Runtime's own operators (`native`), on the CPU.

A call is bound to the memory of the rows that it is about: the session reads the state where it lies, and
writes a block's keys and values there. What is bound is kept with the state, since a row's calls are the same
ones over and over. Rows that are not neighbours are copied out, and back.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from ttc.model.config import ModelConfig
from ttc.model.graphs import GraphTensor, is_mamba_state, new_name, saved_inputs
from ttc.runtime.backends.onnxruntime.binding import Array, Binding
from ttc.runtime.backends.onnxruntime.bound_state import BoundState, Key, Span, bound, new_mamba_of, part_of
from ttc.runtime.backends.onnxruntime.row_workers import RowWorkers
from ttc.runtime.backends.onnxruntime.run import OnnxRuntimeBackend, faults_in
from ttc.runtime.interface.backend import ContextCall, Floats, Ints, StepInputs, StepOutputs, host_step
from ttc.runtime.interface.state import ContextState, as_span, lazy_zeros

__all__ = ["InPlaceBackend"]

# Over multiples of so many tokens the denoiser's attention runs.
_STEP_TOKENS = 32


class InPlaceBackend(OnnxRuntimeBackend):
    """Args: as of `OnnxRuntimeBackend`, of sessions whose graphs went through `use_native_ops`; threads that
    a call of many rows may take.
    """

    _state_class = BoundState

    def __init__(
        self,
        config: ModelConfig,
        sessions: Mapping[str, onnxruntime.InferenceSession],
        weights: Mapping[str, OrtValue],
        compute_dtype: str,
        notes: Sequence[str],
        workers: RowWorkers,
    ) -> None:
        super().__init__(config, sessions, weights, compute_dtype, ("cpu", 0), notes)
        self._workers = workers
        self._part = tokens_in_a_part(config.head_dim)
        # A graph without attention takes nothing that only attention reads.
        self._taken = {
            role: frozenset(value.name for value in session.get_inputs())
            for role, session in sessions.items()
        }

    def resize(self, state: ContextState, batch: int) -> None:
        before = list(state.tensors.values())
        try:
            super().resize(state, batch)
        finally:  # where memory ran out, too, some may have moved
            is_moved = any(new is not old for new, old in zip(state.tensors.values(), before, strict=True))
            if is_moved and isinstance(state, BoundState):
                state.forget()

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        rows: Ints | None = None,
    ) -> ContextCall:
        rows = state.rows(rows)
        parts = self._parts(input_ids)
        if len(parts) == 1:
            return self._context(state, input_ids, commit_len, logit_positions, save, rows)
        each = [
            partial(self._context, state, input_ids[p], commit_len[p], logit_positions[p], save, rows[p])
            for p in parts
        ]
        calls = self._workers.run(each)
        saved = {name: np.concatenate([call.saved[name] for call in calls]) for name in calls[0].saved}
        return ContextCall(np.concatenate([call.logits for call in calls]), saved)

    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        rows = state.rows(rows)
        if self._mamba_names:
            whole = commit_len == saved[self._saved_names[0]].shape[1]
            if not whole.all():
                self._advance(state, rows, saved, commit_len)
            # What the context call made of all of its tokens is the state of rows that keep all of them.
            if whole.any():
                which = np.flatnonzero(whole)
                span = as_span(rows[which])
                for name in self._mamba_names:
                    in_graph_order(state.tensors[name])[span] = saved[new_name(name)][which]
        state.lengths[rows] += commit_len

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> Floats:
        rows = state.rows(rows)
        sums = self._parts_of_a_sum(state.lengths[rows], block_ids.shape[1])
        if self.watched or (sums == sums[0]).all():
            return self._denoise_alike(state, block_ids, t, rows)
        logits = np.empty((*block_ids.shape, self.config.vocab_size), np.float32)
        for count in np.unique(sums):
            which = sums == count
            logits[which] = self._denoise_alike(state, block_ids[which], t[which], rows[which])
        return logits

    def _denoise_alike(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints) -> Floats:
        """Denoise rows whose attention is summed up in equally many parts."""
        parts = self._parts(block_ids)
        if len(parts) == 1:
            return self._denoise(state, block_ids, t, rows)
        each = [partial(self._denoise, state, block_ids[p], t[p], rows[p]) for p in parts]
        return np.concatenate(self._workers.run(each))

    def fetch(self, logits: Floats) -> Floats:
        return logits

    def step(self, logits: Floats, inputs: StepInputs) -> StepOutputs:
        # numpy takes half the time that the step's graph does, which is sixty small nodes.
        return host_step(logits, inputs, self.config.mask_token_id)

    def close(self) -> None:
        self._workers.close()
        super().close()

    def _parts(self, tokens: Ints) -> list[slice]:
        """Return how the rows of a call over tokens (B, L) are cut; not at all where somebody watches it."""
        return [slice(None)] if self.watched else self._workers.cut(*tokens.shape)

    def _context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool,
        rows: Ints,
    ) -> ContextCall:
        span, lengths, length = as_span(rows), state.lengths[rows], input_ids.shape[1]
        key = ("context", *input_ids.shape, logit_positions.shape[1], save)
        binding = bound(state, span, key, self._context_binding)
        after = lengths + length
        inputs = binding.inputs
        inputs["input_ids"][...] = input_ids
        inputs["logit_positions"][...] = logit_positions
        np.subtract(after, 1, out=inputs["seqlens_k"])
        inputs["total_sequence_length"][...] = after.max()
        self._run_bound("context", binding)
        if not isinstance(span, slice):
            self._put_back_kv(state, rows, binding, length)
        state.touched[rows] = np.maximum(state.touched[rows], after)
        # The graph moves past the whole block or, where nobody takes what it gives, not at all.
        counts = set(commit_len.tolist())
        if counts == {length}:
            self._keep_mamba(state, span, binding)
        elif counts != {0}:
            self._move_some(state, rows, binding, input_ids, commit_len)
        state.lengths[rows] = lengths + commit_len
        self._tell("context", binding)
        outputs = binding.outputs
        kept = (*self._saved_names, *map(new_name, self._mamba_names)) if save else ()
        saved = {name: outputs[name].copy() for name in kept}
        return ContextCall(outputs["logits"].copy(), saved)

    def _advance(self, state: ContextState, rows: Ints, saved: Mapping[str, Array], commit_len: Ints) -> None:
        length = saved[self._saved_names[0]].shape[1]
        span = as_span(rows)
        binding = bound(state, span, ("advance", len(rows), length), self._advance_binding)
        binding.inputs["commit_len"][...] = commit_len
        for name in self._saved_names:
            binding.inputs[name][...] = saved[name]
        self._run_bound("advance", binding)
        self._keep_mamba(state, span, binding)

    def _denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints) -> Floats:
        span, lengths = as_span(rows), state.lengths[rows]
        seen = min(state.capacity, int(np.max(_whole_steps(lengths))))
        binding = bound(state, span, ("denoiser", *block_ids.shape, seen), self._denoiser_binding)
        inputs = binding.inputs
        inputs["block_ids"][...] = block_ids
        inputs["t"][...] = t
        if binding.lengths is None or (binding.lengths != lengths).any():
            binding.lengths = lengths
            inputs["attention_mask"][:, 0, :, :seen] = (np.arange(seen) < lengths[:, None])[:, None]
        if seen < state.capacity:
            for name in self._kv_names.values():
                inputs[name][...] = state.tensors[name][span, :, :seen]
        self._run_bound("denoiser", binding)
        self._tell("denoiser", binding)
        logits: Floats = binding.outputs["logits"].copy()
        return logits

    def _parts_of_a_sum(self, lengths: Ints, width: int) -> Ints:
        """Return in how many parts rows are summed up together with a block of this width.

        A sum over more tokens than a part is made part by part, and in which of them the block is shows in
        its last bits. So that none depend on neighbours' lengths, rows share a call where it is the same;
        what else a longer neighbour brings are zeros.
        """
        return -(-(_whole_steps(lengths) + width) // self._part)

    def _run_bound(self, role: str, binding: Binding) -> None:
        self._session(role)  # of a closed engine there is none
        with faults_in(role):
            binding.run()

    def _tell(self, role: str, binding: Binding) -> None:
        """Tell who watches the graph what the call gave."""
        if role in self.watched:
            self.on_watched({name: binding.outputs[name].copy() for name in self.watched[role]})

    def _move_some(
        self, state: ContextState, rows: Ints, binding: Binding, input_ids: Ints, commit_len: Ints
    ) -> None:
        """Keep the state of rows that moved past the whole block; others read again what they keep."""
        length = input_ids.shape[1]
        for count in set(commit_len.tolist()) - {0}:
            which = np.flatnonzero(commit_len == count).astype(np.int32)
            if count == length:
                self._keep_mamba(state, rows[which], binding, which)
                continue
            nowhere = np.zeros((len(which), 1), np.int32)
            self._context(state, input_ids[which, :count], commit_len[which], nowhere, False, rows[which])

    def _zeros(self, tensor: GraphTensor, rows: int, capacity: int) -> Array:
        if not is_mamba_state(tensor.name):
            return super()._zeros(tensor, rows, capacity)
        shape = tensor.sizes({"B": rows, "C": capacity})
        return in_graph_order(lazy_zeros((*shape[:-2], shape[-1], shape[-2]), self._dtype_of(tensor)))

    def _context_binding(self, state: ContextState, span: Span, key: Key) -> Binding:
        _, batch, length, positions, save = key
        inputs = {
            "input_ids": np.empty((batch, length), np.int32),
            "logit_positions": np.empty((batch, positions), np.int32),
            "seqlens_k": np.empty(batch, np.int32),
            "total_sequence_length": np.empty((), np.int32),
            "query_seqlens": np.full(batch, length, np.int32),
        }
        caches = {name: state.tensors[name][span] for name in self._kv_names.values()}
        mamba = self._mamba_of(state, span)
        outputs = {"logits": np.empty((batch, positions, self.config.vocab_size), np.float32)}
        outputs |= new_mamba_of(state, span, mamba)
        outputs |= {new_name(name): array for name, array in caches.items()}
        if save:
            outputs |= self._saved(batch, length)
        return self._binding("context", batch, length, inputs | mamba | caches, outputs)

    def _denoiser_binding(self, state: ContextState, span: Span, key: Key) -> Binding:
        _, batch, length, seen = key
        inputs = {
            "block_ids": np.empty((batch, length), np.int32),
            "t": np.empty(batch, np.float32),
            "attention_mask": np.ones((batch, 1, length, seen + length), np.bool_),
        }
        for name in self._kv_names.values():
            cache = state.tensors[name][span]
            inputs[name] = cache if seen == state.capacity else part_of(state, span, name, seen)
        outputs = {"logits": np.empty((batch, length, self.config.vocab_size), np.float32)}
        return self._binding("denoiser", batch, length, inputs | self._mamba_of(state, span), outputs)

    def _advance_binding(self, state: ContextState, span: Span, key: Key) -> Binding:
        _, batch, length = key
        mamba = self._mamba_of(state, span)
        inputs = {"commit_len": np.empty(batch, np.int32), **self._saved(batch, length), **mamba}
        outputs = new_mamba_of(state, span, mamba)
        return self._binding("advance", batch, length, inputs, outputs)

    def _binding(
        self, role: str, batch: int, length: int, inputs: dict[str, Array], outputs: dict[str, Array]
    ) -> Binding:
        """Bind a call, with what somebody watches: residual streams (B, L, D)."""
        watched = {
            name: np.empty((batch, length, self.config.hidden_size), self._dtype)
            for name in self.watched.get(role, ())
        }
        return Binding(self._session(role), self._taken[role], inputs, outputs | watched)

    def _saved(self, batch: int, length: int) -> dict[str, Array]:
        """Return arrays for what a context call saves."""
        sizes = {"B": batch, "L": length}
        return {t.name: np.empty(t.sizes(sizes), self._dtype_of(t)) for t in saved_inputs(self.config)}

    def _mamba_of(self, state: ContextState, span: Span) -> dict[str, Array]:
        """Return the Mamba state of these rows as the graphs take it; of neighbours in a state of
        this backend the memory itself.
        """
        own = {name: in_graph_order(state.tensors[name])[span] for name in self._mamba_names}
        return {name: np.ascontiguousarray(array) for name, array in own.items()}

    def _keep_mamba(
        self, state: ContextState, span: Span, binding: Binding, which: Span = slice(None)
    ) -> None:
        """Let rows have the Mamba state that the call gave; `which`: their places in the call."""
        for name in self._mamba_names:
            in_graph_order(state.tensors[name])[span] = binding.outputs[new_name(name)][which]

    def _put_back_kv(self, state: ContextState, rows: Ints, binding: Binding, length: int) -> None:
        """Put what a call on copies of the caches added into the caches themselves."""
        for name in self._kv_names.values():
            for i, row in enumerate(rows.tolist()):
                place = slice(state.lengths[row], state.lengths[row] + length)
                state.tensors[name][row, :, place] = binding.inputs[name][i, :, place]


def _whole_steps(lengths: Ints) -> Ints:
    """Return lengths rounded up to what the denoiser's attention runs over."""
    return -(-lengths // _STEP_TOKENS) * _STEP_TOKENS


def tokens_in_a_part(head_dim: int) -> int:
    """Return over how many tokens at once ONNX Runtime's products on a CPU add up values of this width.

    A part of a matrix has 128 × 128 numbers there (MLAS), in as many columns as the width has: 16 to 128, a
    power of two.
    """
    columns = 16
    while columns < min(head_dim, 128):
        columns *= 2
    return 128 * 128 // columns


def in_graph_order(array: Array) -> Array:
    """Return a Mamba state with its last two dimensions exchanged, as a view: from the order of
    `ttc.model.graphs` to that of the graphs here, and back.
    """
    return array.swapaxes(-1, -2)
