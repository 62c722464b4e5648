"""One call's rows in a core that others may share: driving it, its events, its results."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from types import TracebackType
from typing import Any

from tokenizers import Tokenizer

from ttc.base.clock import passed
from ttc.errors import BackendError, TtcError
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.modes.lossless import Lossless
from ttc.runtime.decoding.request import Cancel
from ttc.runtime.decoding.result import Event, Result, Stats
from ttc.runtime.decoding.rows import Phase, Row
from ttc.runtime.interface.backend import Backend
from ttc.runtime.requests import Asked, AskedRow
from ttc.runtime.text import decode

__all__ = ["Generation", "Stream"]

Results = Result | list[Result]


class Generation:
    """The rows of one call. Whoever waits for them ticks the core for everybody.

    Args:
        core, lock: shared with all calls of an engine; the lock is held while the core is used.
        asked: the call's rows.
        streams: whether events are wanted.
        check: raises where the engine may no longer be used.
    """

    def __init__(
        self,
        core: Core,
        lock: threading.RLock,
        backend: Backend,
        tokenizer: Tokenizer | None,
        asked: Asked,
        *,
        streams: bool,
        check: Callable[[], None],
    ) -> None:
        self._core, self._lock, self._backend, self._tokenizer = core, lock, backend, tokenizer
        self._asked, self._check = asked, check
        self._abandoned = Cancel()
        self._events: deque[Event] = deque()
        self._rows: list[Row] = []
        self._settled: set[int] = set()
        self._ticking_seconds, self._started = 0.0, core.clock.now()
        with lock:
            self._device_seconds = core.counts.seconds
            for each in asked.rows:
                self._submit(each, streams)

    def _submit(self, asked: AskedRow, streams: bool) -> None:
        request = asked.request.replace(cancels=(*asked.request.cancels, self._abandoned))
        if streams:
            request = request.replace(listener=lambda event: self._heard(asked, event))
        if asked.refused is not None:
            row = Row(-1, request, Phase.ENDED)
            row.fail(asked.refused)
        else:
            row = self._core.submit(request)
        self._rows.append(row)

    @property
    def done(self) -> bool:
        """Whether every row has ended. A row's phase turns last of all, so whoever sees it in another thread
        sees the rest as well.
        """
        return all(row.phase is Phase.ENDED for row in self._rows)

    def run(self) -> Results:
        """Tick until every row has ended; return the results, or raise what a row alone ended by."""
        try:
            while not self.done:
                self._tick()
        except BaseException:
            self.abandon()  # nobody waits for the rows any more
            raise
        return self.results()

    def next_event(self) -> Event | None:
        """Tick until there is an event; None when all are out."""
        while True:
            # Asked before settling: in another thread's tick a row may end in between.
            done = self.done
            self.settle()
            if self._events or done:
                break
            self._tick()
        self.settle()
        return self._events.popleft() if self._events else None

    def take_events(self) -> list[Event]:
        """Return the events since the last time, without ticking."""
        self.settle()
        taken = list(self._events)
        self._events.clear()
        return taken

    def settle(self) -> None:
        """Put results into the last events of rows that have ended since, in whoever's tick that was."""
        for row in self._rows:
            if row.phase is Phase.ENDED and row.request.index not in self._settled:
                self._settled.add(row.request.index)
                if row.request.listener is not None:
                    self._end(row)

    def abandon(self) -> None:
        """Let the rows that still run leave when somebody next ticks. Safe wherever Python may collect
        garbage.
        """
        self._abandoned.cancel()

    def cancel(self) -> None:
        """End the rows that still run; may be called from any thread, and waits for a tick under way."""
        self.abandon()
        try:
            self._check()
        except TtcError:
            return  # of an engine that is closed or was forked nothing runs, and nobody may hold the lock
        with self._lock:
            for row in self._rows:
                self._core.cancel(row)

    def results(self) -> Results:
        """Return what `generate` returns.

        Raises:
            TtcError: a row alone ended by it, or all rows did because the backend failed.
        """
        for row in self._rows:
            if row.error is not None and (self._asked.single or isinstance(row.error, BackendError)):
                raise row.error
        made = [self._result(row, asked) for row, asked in zip(self._rows, self._asked.rows, strict=True)]
        return made[0] if self._asked.single else made

    def _tick(self) -> None:
        started = self._core.clock.now()
        self._check()  # before the lock, which a fork may have left held for ever
        with self._lock:
            self._check()
            if not self.done:
                try:
                    self._core.tick()
                except TtcError as fault:
                    self._core.fail_all(fault)
                except Exception as fault:
                    said = " ".join(str(fault).split())[:300]
                    failed = BackendError(f"the backend failed: {type(fault).__name__}: {said}")
                    failed.__cause__ = fault
                    self._core.fail_all(failed)
                except BaseException:
                    self._core.fail_all(
                        BackendError("a call was interrupted while it computed for all; ask again")
                    )
                    raise
        self._ticking_seconds += self._core.clock.now() - started

    def _heard(self, asked: AskedRow, event: Event) -> None:
        """Take in an event as the core makes it, with the text that it adds."""
        row = self._rows[event.row] if event.row < len(self._rows) else None
        if event.committed and asked.text is not None:
            ended = row is not None and row.finish_reason is not None
            event = replace(event, text=asked.text.piece(final=ended))
        if event.committed and row is not None and asked.request.options.logprobs:
            event = replace(event, logprobs=tuple(row.logprobs[len(row.tokens) - len(event.token_ids) :]))
        self._events.append(event)

    def _end(self, row: Row) -> None:
        """Put the result into the row's last event; one of its own where the row ended between events."""
        asked = self._asked.rows[row.request.index]
        result = self._result(row, asked)
        last = next(
            (i for i in reversed(range(len(self._events))) if self._events[i].row == row.request.index), None
        )
        if last is None or not self._events[last].committed:
            text = asked.text.piece(final=True) if asked.text is not None else None
            blocks = max(len(row.nfe_per_block) - 1, 0)
            ending = replace(Event.of_tokens(row.request.index, blocks, 0, ()), text=text)
            self._events.append(replace(ending, finish_reason=row.finish_reason, result=result))
        else:
            event = self._events[last]
            if asked.text is not None:
                event = replace(event, text=(event.text or "") + asked.text.piece(final=True))
            self._events[last] = replace(event, finish_reason=row.finish_reason, result=result)

    def _result(self, row: Row, asked: AskedRow) -> Result:
        assert row.finish_reason is not None, "a result is of a row that has ended"
        options, nfe = row.request.options, sum(row.nfe_per_block)
        # Without the time in which the caller looks at events; since the call where another thread ticks.
        seconds = self._ticking_seconds or passed(self._started, self._core.clock.now())
        stats = Stats(
            mode=options.mode,
            backend=self._backend.name,
            prompt_tokens=len(row.request.prompt),
            cached_prompt_tokens=row.cached_tokens,
            nfe=nfe,
            nfe_per_block=tuple(row.nfe_per_block),
            tokens_per_nfe=len(row.tokens) / nfe if nfe else None,
            context_calls=row.context_calls,
            seconds=seconds,
            tokens_per_second=len(row.tokens) / seconds,
            backend_seconds=min(self._core.counts.seconds - self._device_seconds, seconds),
            graph_level=self._backend.graph_level,
            seed=options.seed,
            choice=row.request.choice,
            queue_seconds=None if row.started is None else row.started - row.submitted,
            lossless=row.mode.figures(row) if isinstance(row.mode, Lossless) else None,
            notes=(*self._backend.notes, *options.notes),
        )
        logprobs = tuple(row.logprobs) if options.logprobs else None
        return Result(
            tuple(row.tokens),
            self._text(row, asked),
            row.finish_reason,
            stats,
            logprobs,
            row.error,
            tuple(row.scores) if options.prompt_logprobs else None,
        )

    def _text(self, row: Row, asked: AskedRow) -> str | None:
        if self._tokenizer is None:
            return None
        options = row.request.options
        if asked.text is not None:  # what was given piece by piece is the text
            return asked.text.finish()
        return decode(self._tokenizer, row.tokens, options.eos_token_ids, options.skip_special_tokens)


class Stream(Generator[Event, None, Results]):
    """The events of a call, as they come. A generator: `yield from` gives the results.

    `close()` ends the generation, also from another thread while this one waits for an event.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._closed = False

    def send(self, value: None) -> Event:
        """Return the next event; `StopIteration` with the results after the last."""
        if self._closed:
            raise StopIteration
        event = self._generation.next_event()
        if self._closed:  # by another thread, while this one waited
            raise StopIteration
        if event is None:
            self._closed = True
            raise StopIteration(self._generation.results())
        return event

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Event:
        """End the generation and raise."""
        self.close()
        raise kind if isinstance(kind, BaseException) else kind(value)

    def close(self) -> None:
        """End the generation; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._generation.cancel()

    def __del__(self) -> None:
        # Rows that nobody waits for would be ticked by others to their end.
        if not self._closed:
            self._generation.abandon()
