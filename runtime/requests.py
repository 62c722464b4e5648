"""What a caller asks for → checked requests, one a row: the only place where they are made."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ttc.errors import BundleError, CapacityError, InputError
from ttc.formats.strictjson import quoted
from ttc.formats.tokenizer import LONG_TEXT, encoded
from ttc.plugins.counter_rng import row_key
from ttc.runtime.decoding.grammar import GRAMMAR_OPTIONS, Grammar
from ttc.runtime.decoding.limits import check_block, fitting_capacity
from ttc.runtime.decoding.modes.table import VERIFIED
from ttc.runtime.decoding.options import (
    CheckedOptions,
    GenerationOptions,
    check_names,
    check_options,
    with_own_seed,
)
from ttc.runtime.decoding.request import Cancel, Request, RowRequest
from ttc.runtime.interface.backend import Backend
from ttc.runtime.prompts import Encode, Prompt, RowPrompt, read_fixed, read_ids, split_prompts
from ttc.runtime.structured import Grammars
from ttc.runtime.text import RowText, without_control_tokens

__all__ = ["Asked", "AskedRow", "RequestReader", "has_long_text", "names_grammar"]


@dataclass(frozen=True, slots=True)
class AskedRow:
    """One row of a call: its request, its text while it is written (None where nobody needs it), and why it
    cannot run.
    """

    request: RowRequest
    text: RowText | None
    refused: CapacityError | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A whole call. `single`: one prompt and one choice were asked for, so the answer is no list."""

    rows: tuple[AskedRow, ...]
    single: bool

    def also_cancelled_by(self, cancel: Cancel) -> "Asked":
        """Return a copy whose rows end when this asks for it as well."""
        rows = (
            dataclasses.replace(row, request=row.request.replace(cancels=(*row.request.cancels, cancel)))
            for row in self.rows
        )
        return dataclasses.replace(self, rows=tuple(rows))

    def scheduled(self, priority: int, owner: str) -> "Asked":
        """Return a copy whose rows have this priority and owner."""
        rows = (
            dataclasses.replace(row, request=row.request.replace(priority=priority, owner=owner))
            for row in self.rows
        )
        return dataclasses.replace(self, rows=tuple(rows))


class RequestReader:
    """Reads calls for one model on one backend. `room`: most tokens that a row may hold."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer | None, room: int) -> None:
        self._backend, self._tokenizer, self._room = backend, tokenizer, room
        self._plain: Tokenizer | None = None
        self._grammars = Grammars(tokenizer, backend.config)

    def read(
        self,
        prompt: Prompt,
        options: GenerationOptions | str | None,
        given: Mapping[str, Any],
        cancel: Cancel | None,
        now: Callable[[], float],
        *,
        streams: bool,
    ) -> Asked:
        """Check options and prompts of a call.

        Args:
            prompt: one or several.
            options: of all rows; a text is the mode, None stands for the defaults. What a row says itself
                goes over these.
            given: single options of all rows, over those; a row must not contradict them.
            cancel: ends the rows.
            now: the clock that deadlines are counted on.
            streams: whether events with text are wanted.

        Raises:
            TypeError: an option that there is not, or one that is given twice.
            InputError: an option or a prompt is not valid. A row that is too long for the context is no such
                error where it has neighbours: it is refused by itself.
        """
        if cancel is not None and not isinstance(cancel, Cancel):
            raise InputError(f"cancel is {type(cancel).__name__}; valid: a ttc.Cancel")
        check_names(given)
        if isinstance(options, str):
            if "mode" in given:
                raise TypeError(f"two modes: {quoted(options)} and mode={quoted(given['mode'])}; name one")
            options, given = None, {"mode": options, **given}
        elif options is not None and not isinstance(options, GenerationOptions):
            raise InputError(f"options is {type(options).__name__}; valid: ttc.GenerationOptions, or a mode")
        prompts, is_batch = split_prompts(prompt)
        started = now()
        shared = None if any(row.options for row in prompts) else self._options(options, given)
        seeded = given.get("seed", None if options is None else options.seed) is not None
        rows: list[AskedRow] = []
        for row in prompts:
            own = shared or self._options(options, _merged(given, row))
            if shared is not None and not seeded:
                own = with_own_seed(own)
            for choice in range(own.choice, own.choice + own.n):
                rows.append(self._row(row, own, choice, len(rows), cancel, started, streams=streams))
        single = not is_batch and len(rows) == 1
        if single and rows[0].refused is not None:
            raise rows[0].refused
        return Asked(tuple(rows), single)

    def _options(self, options: GenerationOptions | None, given: Mapping[str, Any]) -> CheckedOptions:
        asked = dataclasses.replace(options or GenerationOptions(), **given)
        checked = check_options(asked, self._backend.config)
        if checked.mode != "ar":
            check_block(self._backend.limits, 1 if checked.mode == "mock-ar" else checked.block_size)
        if checked.mode in VERIFIED and not self._backend.can_advance:
            raise BundleError(
                f"mode {checked.mode!r} needs an advance graph, and this bundle was exported without "
                "one; export the checkpoint again (ttc export), or use mode 'ar', "
                "which gives the same text"
            )
        if checked.stop and self._tokenizer is None:
            raise InputError("stop is text, but the bundle has no tokenizer.json; use eos_token_id instead")
        return checked

    def _row(
        self,
        row: RowPrompt,
        options: CheckedOptions,
        choice: int,
        index: int,
        cancel: Cancel | None,
        started: float,
        *,
        streams: bool,
    ) -> AskedRow:
        ids = read_ids(row, self._backend.config, self._encode(options))
        wanted = options.max_new_tokens
        new_tokens = max(self._room - len(ids), 0) if wanted is None else wanted
        text = None
        if self._tokenizer is not None and (streams or options.stop):
            text = RowText(self._tokenizer, options.eos_token_ids, options.stop, options.skip_special_tokens)
        request = RowRequest(
            prompt=tuple(ids),
            options=options,
            row_key=row_key(options.seed or 0, choice),
            max_new_tokens=new_tokens,
            index=index,
            fixed=read_fixed(row, self._backend.config, options.mode, max(new_tokens, 1)),
            ending=text,
            grammar=self._grammar(options),
            deadline=None if options.deadline is None else started + options.deadline,
            cancels=() if cancel is None else (cancel,),
            choice=choice,
        )
        return AskedRow(request, text, self._refusal(len(ids), wanted))

    def _grammar(self, options: CheckedOptions) -> Grammar | None:
        if options.grammar is None:
            return None
        return self._grammars.grammar(options.grammar, options.eos_token_ids)

    def _refusal(self, prompt_tokens: int, max_new_tokens: int | None) -> CapacityError | None:
        """Return why a row of this length cannot run."""
        needed = prompt_tokens + (max_new_tokens or 0)
        if needed > self._room:
            return CapacityError(
                f"{prompt_tokens} prompt tokens and max_new_tokens {max_new_tokens or 0} need {needed} "
                f"places, the capacity is {self._room}; shorten the prompt, ask for fewer, or load "
                "with more capacity"
            )
        try:
            fitting_capacity(self._backend.limits, needed, needed)
        except CapacityError as fault:
            return fault
        return None

    def _encode(self, options: CheckedOptions) -> Encode | None:
        """Text is encoded exactly as tokenizer.json says, but for control tokens that are to be split."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        if options.split_special_tokens:
            self._plain = self._plain or without_control_tokens(tokenizer)
            tokenizer = self._plain
        return lambda text: encoded(tokenizer, text)


def _merged(given: Mapping[str, Any], row: RowPrompt) -> Mapping[str, Any]:
    """Return the options of one row; what it says must not contradict what was said of all rows."""
    for name, value in row.options.items():
        # Of arrays, == says more than one thing.
        if name in given and not np.array_equal(np.atleast_1d(given[name]), np.atleast_1d(value)):
            raise InputError(
                f"{row.what}: {name} is {quoted(value)}, but the call says {quoted(given[name])} for all "
                "rows; say it in one of the two places"
            )
    return {**given, **row.options}


def has_long_text(prompt: object) -> bool:
    """Return whether a call brings a text that takes long to encode."""
    rows = prompt if isinstance(prompt, list | tuple) else [prompt]
    texts = (row.prompt if isinstance(row, Request) else row for row in rows)
    return any(isinstance(text, str) and len(text) > LONG_TEXT for text in texts)


def names_grammar(prompt: object, options: object, given: Mapping[str, Any]) -> bool:
    """Return whether a call names a grammar, which may take a second to build."""
    rows = prompt if isinstance(prompt, list | tuple) else [prompt]
    return any(
        given.get(name) is not None or getattr(options, name, None) is not None for name in GRAMMAR_OPTIONS
    ) or any(isinstance(row, Request) and not row.options.keys().isdisjoint(GRAMMAR_OPTIONS) for row in rows)
