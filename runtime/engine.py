"""The engine: a loaded bundle that generates."""

import dataclasses
import numbers
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ttc.errors import BundleError, CapacityError, InputError
from ttc.formats.manifest import MANIFEST_FILE
from ttc.formats.verification import check_verified, runs_from
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.runtime.backends import load_backend
from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.limits import (
    PREFILL_CHUNK,
    capacity_bucket,
    check_block,
    check_rows,
    fitting_capacity,
    fitting_chunk,
)
from ttc.runtime.decoding.loop import (
    NO_CONDITIONING,
    autoregress,
    diffuse,
    mock_autoregress,
    prefill,
)
from ttc.runtime.decoding.options import (
    MAX_BLOCK_SIZE,
    GenerationOptions,
    check_options,
)
from ttc.runtime.decoding.result import Event, Result, Stats
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.lossless import lossless
from ttc.runtime.decoding.speculative.policy import DraftPolicies
from ttc.runtime.decoding.speculative.prompt_lookup import prompt_lookup
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings
from ttc.runtime.prompts import Prompt, check_ids, read_prompts
from ttc.runtime.text import TextStream, decode, load_tokenizer

__all__ = ["Engine", "load"]

_LOOPS = {
    "diffusion": diffuse,
    "ar": autoregress,
    "mock-ar": mock_autoregress,
    "prompt-lookup": prompt_lookup,
}
# Modes that learn from the logits how many tokens of a block count.
_VERIFIED = ("lossless", "prompt-lookup")


def load(
    bundle: str | os.PathLike[str],
    backend: str = "onnxruntime",
    device: str | None = None,
    capacity: int | None = None,
    engines: str | os.PathLike[str] | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    trust: str | os.PathLike[str] | None = None,
    graph_level: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    require_verified: bool = False,
) -> "Engine":
    """Open a bundle on a backend.

    Args:
        bundle: the folder that `ttc export` wrote; its digests are checked first.
        backend: "onnxruntime", "torch", "tensorrt" or "tensorrt-rtx".
        device: "cpu", "cuda" or "cuda:N"; "cuda:0,cuda:1" puts a tower on each of two GPUs (not onnxruntime);
            None takes the best there is.
        capacity: tokens a row may hold, prompt and new ones together; None fits each generation, up to the
            model's max_position_embeddings.
        engines: folder of TensorRT engines, by default BUNDLE/engines; only for backends that run engines.
        checkpoint: where the checkpoint of a referenced bundle lies now, if it has moved.
        threads: CPU threads for each call of the onnxruntime backend; None takes one for a small model, all
            cores for a large one.
        trust: PEM file of the public key that must have signed the engines; only with engines.
        graph_level: most that CUDA graphs may hold: 0 nothing, 1 a step, 2 a block; None for the most there
            is. Only for backends on a GPU.
        progress: called with (bytes done, bytes in all) while weights go to a GPU.
        require_verified: refuse a bundle, or a set of engines, that did not pass `ttc verify` on this backend
            as it is now.

    Raises:
        BundleError: not a bundle, damaged, not verified, or its checkpoint is missing or changed.
        InputError: an unknown backend or device, a capacity that is none.
        BackendError: the backend is not available here; `DeviceMemoryError` where a GPU is too small.
    """
    opened = Bundle.open(bundle, checkpoint)
    if require_verified:
        check_verified(runs_from(opened.path, backend, engines), opened.path / MANIFEST_FILE, backend)
    limit = opened.config.max_position_embeddings
    if capacity is not None and (not _is_count(capacity) or capacity > limit):
        raise InputError(
            f"capacity is {capacity!r}; valid: 1 to {limit} tokens (the model's max_position_embeddings)"
        )
    if threads is not None and (not _is_count(threads) or threads > 1024):
        raise InputError(f"threads is {threads!r}; valid: 1 to 1024")
    tokenizer = load_tokenizer(opened)
    settings = LoadSettings(device, threads, engines, trust, graph_level, progress)
    try:
        return Engine(load_backend(backend, opened, settings), tokenizer, capacity)
    finally:
        opened.close()


class Engine:
    """Generates text with one model on one backend. Thread-safe; close it, or use it as a context manager.

    `load` makes one; tests and tools make theirs over any `Backend`.

    Attributes:
        runner: the backend itself, where `backend` is its name: the calls of `Backend`, for tests,
            measurements and tools. It belongs to the engine, which closes it.
        tokenizer: the bundle's; None where it has none.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer | None = None,
        capacity: int | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.runner, self._capacity = backend, capacity
        self._prefill_chunk = fitting_chunk(backend.limits, prefill_chunk)
        self.tokenizer = tokenizer
        self._draft_policies = DraftPolicies()

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
        """Where it computes: "cpu", "cuda:N", or both GPUs with a comma between them."""
        return self.runner.device_name

    @property
    def threads(self) -> int | None:
        """CPU threads of one call; None where a GPU computes."""
        return self.runner.threads

    @property
    def can_verify_drafts(self) -> bool:
        """Whether modes "lossless" and "prompt-lookup" are available; older bundles lack a graph for them."""
        return self.runner.can_advance

    def generate(
        self, prompt: Prompt, options: GenerationOptions | str | None = None, **overrides: Any
    ) -> Result | list[Result]:
        """Generate after a prompt, or after every prompt of a batch.

        Options may be named directly, as in `engine.generate(prompt, mode="ar", max_new_tokens=64)`;
        `GenerationOptions` says what they mean and has their defaults.

        Args:
            prompt: text, token ids, or a sequence of either (a batch, whose rows do not affect each other).
            options: how to generate; a text is the mode, all else by default.
            overrides: single options by name, in place of those in `options`.

        Returns:
            One result, or a list for a batch.

        Raises:
            InputError: an option or a prompt is not valid.
            CapacityError: too many tokens.
            NumericsError: the model computed NaN.
            BackendError: the engine is closed.
        """
        events = self._play(self._start(prompt, _merged(options, overrides)), with_text=False)
        while True:
            try:
                next(events)
            except StopIteration as end:
                outcome: Result | list[Result] = end.value
                return outcome

    def stream(
        self, prompt: Prompt, options: GenerationOptions | str | None = None, **overrides: Any
    ) -> Generator[Event, None, Result | list[Result]]:
        """Generate as `generate` does, and give every denoise step and finished block as an event.

        Options and prompt are checked at the call, not at the first event. The generator's return value (what
        `yield from` gives) is what `generate` returns; its times do not count what the caller does between
        events.
        """
        return self._play(self._start(prompt, _merged(options, overrides)), with_text=True)

    def context_logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Context tower logits at every position of one sequence: (L, V)."""
        tokens = np.array([check_ids(ids, self.config, "ids")], np.int32)
        state = self.runner.new_state(1, self._capacity_for(tokens.shape[1]))
        check_rows(self.runner.limits, 1)
        pieces, width = [], self._prefill_chunk
        if self.runner.limits is not None:
            width = min(width, self.runner.limits.positions[1])
        for start in range(0, tokens.shape[1], width):
            chunk = tokens[:, start : start + width]
            L = chunk.shape[1]
            positions = np.arange(L, dtype=np.int32)[None]
            call = self.runner.context(state, chunk, np.array([L], np.int32), positions)
            pieces.append(self.runner.fetch(call.logits)[0])
        return np.concatenate(pieces)

    def denoiser_logits(
        self, context_ids: Sequence[int], block_ids: Sequence[int], t: float | None
    ) -> npt.NDArray[np.float32]:
        """One denoiser evaluation of a block over a context: raw logits (S, V), the mask id's included.

        t: share of masked positions the model is told, 0 to 1; None switches time conditioning off.
        """
        if t is not None and not _is_share(t):
            raise InputError(f"t is {t!r}; valid: 0 to 1, or None for no conditioning")
        context = check_ids(context_ids, self.config, "context_ids")
        block = np.array([check_ids(block_ids, self.config, "block_ids")], np.int32)
        if block.shape[1] > MAX_BLOCK_SIZE:
            raise InputError(f"block_ids has {block.shape[1]} tokens; valid: up to {MAX_BLOCK_SIZE}")
        check_rows(self.runner.limits, 1)
        check_block(self.runner.limits, block.shape[1])
        capacity = self._capacity_for(len(context))
        options = check_options(GenerationOptions(), self.config)
        state, _ = prefill(
            Generation(self.runner, [Row(0, context)], options, capacity, self._prefill_chunk), [context]
        )
        share = np.array([NO_CONDITIONING if t is None else t], np.float32)
        logits: npt.NDArray[np.float32] = self.runner.fetch(self.runner.denoise(state, block, share))[0]
        return logits

    def warm_up(self, batch: int = 1, tokens: int = 128, block_size: int = 16) -> None:
        """Make ready, before the first generation, what these sizes need: on a GPU the CUDA graphs.

        tokens: prompt and new ones together, which decides the capacity. Raises as `generate` does.
        """
        check_rows(self.runner.limits, batch)
        check_block(self.runner.limits, block_size)
        capacity = self._capacity_for(tokens)
        self.runner.warm_up(batch, capacity, block_size, self._prefill_chunk)

    def close(self) -> None:
        """Free the model. Later calls are refused; a second close does nothing."""
        self.runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, prompt: Prompt, given: GenerationOptions) -> "_Call":
        """Check options and prompts and set up the loop; nothing is computed yet."""
        options = check_options(given, self.config)
        prompts, is_batch = read_prompts(prompt, self.config, self.tokenizer)
        rows = [Row(i, ids) for i, ids in enumerate(prompts)]
        check_rows(self.runner.limits, len(rows))
        if options.mode != "ar":
            check_block(self.runner.limits, 1 if options.mode == "mock-ar" else options.block_size)
        capacity = self._capacity_for(max(len(ids) for ids in prompts), options.max_new_tokens)
        run = Generation(self.runner, rows, options, capacity, self._prefill_chunk)
        if options.max_new_tokens == 0:
            for row in rows:
                row.finish_reason = "length"
            events: Iterator[Event] = iter(())
        elif options.mode in _VERIFIED and not self.runner.can_advance:
            raise BundleError(
                f"mode {options.mode!r} needs an advance graph, and this bundle was exported without "
                "one; export the checkpoint again (ttc export), or use mode 'ar', "
                "which gives the same text"
            )
        elif options.mode == "lossless":
            events = lossless(run, self._draft_policies)
        else:
            events = _LOOPS[options.mode](run)
        return _Call(run, events, is_batch)

    def _capacity_for(self, prompt_tokens: int, max_new_tokens: int = 0) -> int:
        limit = self._capacity or self.config.max_position_embeddings
        needed = prompt_tokens + max_new_tokens
        if needed > limit:
            raise CapacityError(
                f"{prompt_tokens} prompt tokens and max_new_tokens {max_new_tokens} need {needed} places, "
                f"the capacity is {limit}; shorten the prompt, ask for fewer, or load with more capacity"
            )
        wanted = self._capacity or capacity_bucket(needed)
        return fitting_capacity(self.runner.limits, needed, wanted)

    def _play(self, call: "_Call", *, with_text: bool) -> Generator[Event, None, Result | list[Result]]:
        """Run the loop to its end: yield events with their text, return the results."""
        run = call.run
        streams = [
            TextStream(self.tokenizer, run.options.eos_token_ids) if self.tokenizer and with_text else None
            for _ in run.rows
        ]
        seconds, start = 0.0, time.perf_counter()
        for event in call.events:
            text = streams[event.row]
            if event.committed and text is not None:
                row = run.rows[event.row]
                piece = text.push(row.tokens, final=row.finish_reason is not None)
                event = dataclasses.replace(event, text=piece)
            seconds += time.perf_counter() - start
            yield event
            start = time.perf_counter()
        seconds += time.perf_counter() - start
        results = [self._result(row, run, seconds) for row in run.rows]
        return results if call.is_batch else results[0]

    def _result(self, row: Row, run: Generation, seconds: float) -> Result:
        assert row.finish_reason is not None, "the loop ends when every row has ended"
        options, nfe = run.options, sum(row.nfe_per_block)
        stats = Stats(
            mode=options.mode,
            backend=self.runner.name,
            prompt_tokens=len(row.prompt),
            nfe=nfe,
            nfe_per_block=tuple(row.nfe_per_block),
            tokens_per_nfe=len(row.tokens) / nfe if nfe else None,
            context_calls=row.context_calls,
            seconds=seconds,
            tokens_per_second=len(row.tokens) / seconds,
            backend_seconds=run.backend_seconds,
            graph_level=self.runner.graph_level,
            seed=options.seed,
            lossless=row.lossless,
            notes=(*self.runner.notes, *options.notes),
        )
        text = None if self.tokenizer is None else decode(self.tokenizer, row.tokens, options.eos_token_ids)
        return Result(tuple(row.tokens), text, row.finish_reason, stats)


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """One call of `generate` or `stream`: the generation, the loop that makes it, and the prompt's kind."""

    run: Generation
    events: Iterator[Event]
    is_batch: bool


def _merged(options: GenerationOptions | str | None, overrides: dict[str, Any]) -> GenerationOptions:
    """Return the options of a call; an unknown name is a TypeError, as of any keyword argument."""
    if options is None:
        return GenerationOptions(**overrides)
    if isinstance(options, GenerationOptions):
        return dataclasses.replace(options, **overrides)
    return GenerationOptions(mode=options, **overrides)


def _is_count(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) > 0


def _is_share(value: object) -> bool:
    return isinstance(value, numbers.Real) and 0.0 <= float(value) <= 1.0
