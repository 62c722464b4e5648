"""The engine: a loaded bundle that generates."""

import numbers
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self, Unpack, overload

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ttc.base.names import Mode
from ttc.errors import BackendError, CapacityError, InputError
from ttc.formats.strictjson import quoted
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.limits import (
    check_block,
    check_rows,
    fitting_capacity,
    fitting_chunk,
    is_count,
)
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.option_types import OneTextOptions, Options
from ttc.runtime.decoding.options import MAX_BLOCK_SIZE, GenerationOptions
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.prefix_cache import PrefixCache, PrefixStats, share_of_memory
from ttc.runtime.decoding.request import Cancel
from ttc.runtime.decoding.result import Result
from ttc.runtime.decoding.speculative.policy import DraftPolicies
from ttc.runtime.decoding.work import NO_CONDITIONING
from ttc.runtime.generation import Generation, Stream
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.state import ContextState
from ttc.runtime.prompts import ManyPrompts, OnePrompt, Prompt, check_ids
from ttc.runtime.requests import Asked, RequestReader

__all__ = ["Engine"]

# Rows that run at once unless told otherwise, and prompt tokens that are read in one tick.
_MAX_ROWS, _PROMPT_TOKENS = 1024, 1024


class Engine:
    """Generates text with one model on one backend. Thread-safe: callers at the same time share its calls.
    Close it, or use it as a context manager.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer | None = None,
        capacity: int | None = None,
        prefill_chunk: int | None = None,
        prefix_cache_bytes: int | None = 0,
        limits: CoreLimits | None = None,
    ) -> None:
        """capacity: tokens that a row may hold; None for the model's positions.
        prefill_chunk: prompt tokens that a context call reads; None for what suits the processor.
        limits: what the core takes on; None for what an engine in a program needs.
        """
        self.runner, self.tokenizer = backend, tokenizer
        # Jinja text that makes a prompt of a chat, as the bundle brings it; nothing here renders it.
        self.chat_template: str | None = None
        self._room = capacity or backend.config.max_position_embeddings
        self._chunk = fitting_chunk(backend.limits, prefill_chunk or backend.sizes.chunk)
        self._prefixes = _prefix_cache(backend, self._chunk, prefix_cache_bytes)
        rows = _MAX_ROWS if backend.limits is None else backend.limits.batch[1]
        self.core = Core(
            BackendDevice(backend, self._room),
            ModeTable(backend, DraftPolicies(backend, self._room).policy, self._room),
            limits or CoreLimits(rows, None, _PROMPT_TOKENS, extend_when=None if backend.shares_state else 1),
            self._chunk,
            prefixes=self._prefixes,
        )
        # Held while the core is used.
        self.lock = threading.RLock()
        self._reader = RequestReader(backend, tokenizer, self._room)
        self._process, self._closed = os.getpid(), False

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.runner.config

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self.runner.name

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda:N", or the name of the GPU."""
        return self.runner.device_name

    @property
    def threads(self) -> int | None:
        """CPU threads of one call; None where a GPU computes."""
        return self.runner.threads

    @property
    def room(self) -> int:
        """Most tokens that a row may hold, prompt and new ones together."""
        return self._room

    @property
    def can_verify_drafts(self) -> bool:
        """Whether modes "lossless" and "prompt-lookup" are available; old bundles lack a graph."""
        return self.runner.can_advance

    @property
    def prefix_cache(self) -> PrefixStats | None:
        """Figures of the prefix cache; None where it is off."""
        return None if self._prefixes is None else self._prefixes.stats

    # A text is a sequence of texts to a type checker; the first overload that fits is taken, at run time too.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompt: OnePrompt,
        options: Mode | None = None,
        *,
        cancel: Cancel | None = None,
        **overrides: Unpack[OneTextOptions],
    ) -> Result: ...

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompt: OnePrompt,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        **overrides: Unpack[Options],
    ) -> Result | list[Result]: ...

    @overload
    def generate(
        self,
        prompt: ManyPrompts,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        **overrides: Unpack[Options],
    ) -> list[Result]: ...

    @overload
    def generate(
        self,
        prompt: Prompt,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        **overrides: Unpack[Options],
    ) -> Result | list[Result]: ...

    def generate(
        self,
        prompt: Prompt,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        **overrides: Any,
    ) -> Result | list[Result]:
        """Generate after a prompt, or after every prompt of a batch.

        Options may be named directly, as in `engine.generate(prompt, mode="ar", max_new_tokens=64)`;
        `GenerationOptions` says what they mean and has their defaults.

        Args:
            prompt: text, token ids, a `ttc.Request` with options of its own, or a sequence of any (a batch,
                whose rows do not affect each other: each is what a call for it alone gives).
            options: how to generate, for all rows; a text is the mode, all else by default.
            cancel: stops the call from another thread.
            overrides: single options by name, in place of those in `options`.

        Returns:
            One result; a list for a batch, and for several choices (`n`).

        Raises:
            InputError: an option or a prompt is not valid.
            CapacityError: too many tokens.
            NumericsError: the model computed NaN.
            DeadlineExceeded: the deadline passed.
            BackendError: the engine is closed, or its backend failed.
                In a batch the last three but the failed backend end their own row, with finish_reason
                "error".
        """
        return self.enter(self.read(prompt, options, overrides, cancel), streams=False).run()

    def stream(
        self,
        prompt: Prompt,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        **overrides: Unpack[Options],
    ) -> Stream:
        """Generate as `generate` does, and give every denoise step and finished block as an event.

        Options and prompt are checked at the call, not at the first event. The last event of a row has its
        finish_reason and its result. The generator's return value (what `yield from` gives) is what
        `generate` returns; its times do not count what the caller does between events. Closing it ends the
        generation.
        """
        asked = self.read(prompt, options, overrides, cancel, streams=True)
        return Stream(self.enter(asked, streams=True))

    def context_logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the context tower's logits at every position of one sequence: (L, V)."""
        self._check_usable()
        tokens = np.array(check_ids(ids, self.config, "ids"), np.int32)
        check_rows(self.runner.limits, 1)
        width = self._chunk
        if self.runner.limits is not None:
            width = min(width, self.runner.limits.positions[1])
        state = self._state_for(len(tokens))
        logits = [self._read(state, tokens[start : start + width]) for start in range(0, len(tokens), width)]
        self.runner.release(state)
        return np.concatenate(logits)

    def denoiser_logits(
        self, context_ids: Sequence[int], block_ids: Sequence[int], t: float | None
    ) -> npt.NDArray[np.float32]:
        """Return raw logits (L, V) of one denoiser evaluation of a block over a context, the mask id's
        included.

        t: share of masked positions the model is told, 0 to 1; None switches time conditioning off.
        """
        self._check_usable()
        if t is not None and not _is_share(t):
            raise InputError(f"t is {quoted(t)}; valid: 0 to 1, or None for no conditioning")
        context = np.array(check_ids(context_ids, self.config, "context_ids"), np.int32)
        block = np.array([check_ids(block_ids, self.config, "block_ids")], np.int32)
        if block.shape[1] > MAX_BLOCK_SIZE:
            raise InputError(f"block_ids has {block.shape[1]} tokens; valid: up to {MAX_BLOCK_SIZE}")
        check_rows(self.runner.limits, 1)
        check_block(self.runner.limits, block.shape[1])
        state = self._state_for(len(context))
        for start in range(0, len(context), self._chunk):
            self._read(state, context[start : start + self._chunk], last_only=True)
        share = np.array([NO_CONDITIONING if t is None else t], np.float32)
        logits: npt.NDArray[np.float32] = self.runner.fetch(self.runner.denoise(state, block, share))[0]
        self.runner.release(state)
        return logits

    def warm_up(self, batch: int = 1, tokens: int = 128, block_size: int = 16) -> None:
        """Prepare, before the first generation, what these sizes need: on a GPU the CUDA graphs.

        tokens: prompt and new ones together, which decides the capacity. Raises as `generate` does.
        """
        self._check_usable()
        for name, value, most in (
            ("batch", batch, _MAX_ROWS),
            ("tokens", tokens, self._room),
            ("block_size", block_size, MAX_BLOCK_SIZE),
        ):
            if not is_count(value) or value > most:
                raise InputError(f"{name} is {quoted(value)}; valid: an integer from 1 to {most}")
        check_rows(self.runner.limits, batch)
        check_block(self.runner.limits, block_size)
        self.runner.warm_up(batch, self._capacity_for(tokens), block_size, self._chunk)

    def close(self) -> None:
        """Release the model. Generations under way end in an error, later calls are refused.

        A second close does nothing, nor does one in a process that was forked from the one that loaded it.
        """
        if os.getpid() != self._process:
            return
        self._closed = True
        with self.lock:
            self.core.fail_all(BackendError("the engine was closed while this was generated"))
            self.runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"<ttc.Engine: {self.backend} on {self.device}, rows of up to {self.room} tokens{state}>"

    def read(
        self,
        prompt: Prompt,
        options: GenerationOptions | str | None,
        overrides: Mapping[str, Any],
        cancel: Cancel | None,
        *,
        streams: bool = False,
    ) -> Asked:
        """Check what a call asks for, as `generate` does; nothing is queued yet."""
        self._check_usable()
        asked = self._reader.read(prompt, options, overrides, cancel, self.core.clock.now, streams=streams)
        check_rows(self.runner.limits, len(asked.rows))
        return asked

    def enter(self, asked: Asked, *, streams: bool) -> Generation:
        """Queue the rows of a call; whoever holds the generation ticks until they have ended."""
        return Generation(
            self.core,
            self.lock,
            self.runner,
            self.tokenizer,
            asked,
            streams=streams,
            check=self._check_usable,
        )

    def _check_usable(self) -> None:
        if os.getpid() != self._process:
            raise BackendError(
                "this engine was loaded before a fork; its threads and memory did not come along: "
                "start the new process with the method spawn, and load the bundle there"
            )
        if self._closed:
            raise BackendError("the engine is closed; load the bundle again")

    def _capacity_for(self, tokens: int) -> int:
        if tokens > self._room:
            raise CapacityError(
                f"{tokens} tokens need as many places, the capacity is {self._room}; "
                "give fewer, or load with more capacity"
            )
        wanted = max(min(self.runner.sizes.bucket(tokens), self._room), tokens)
        return fitting_capacity(self.runner.limits, tokens, wanted)

    def _state_for(self, tokens: int) -> ContextState:
        return self.runner.new_state(1, self._capacity_for(tokens))

    def _read(
        self, state: ContextState, tokens: npt.NDArray[np.int32], *, last_only: bool = False
    ) -> npt.NDArray[np.float32]:
        """Let the context tower read tokens into a state of one row; logits (R, V)."""
        positions = np.arange(len(tokens), dtype=np.int32)[-1:] if last_only else np.arange(len(tokens))
        call = self.runner.context(
            state, tokens[None], np.array([len(tokens)], np.int32), positions.astype(np.int32)[None]
        )
        logits: npt.NDArray[np.float32] = self.runner.fetch(call.logits)[0]
        return logits


def _prefix_cache(backend: Backend, chunk: int, limit_bytes: int | None) -> PrefixCache | None:
    if limit_bytes is None:
        limit_bytes = share_of_memory(backend.free_piece_bytes) if backend.can_save_rows else 0
    if isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int) or limit_bytes < 0:
        raise InputError(
            f"prefix_cache_bytes is {quoted(limit_bytes)}; valid: a number of bytes, 0 for no cache"
        )
    if not limit_bytes:
        return None
    if not backend.can_save_rows:
        raise InputError(
            f"backend {backend.name!r} keeps no copies of rows; leave out prefix_cache_bytes, or give 0"
        )
    return PrefixCache(backend, chunk, limit_bytes)


def _is_share(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and 0.0 <= float(value) <= 1.0
