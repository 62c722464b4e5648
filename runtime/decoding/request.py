"""A request: what the caller asks for one prompt, and what the reader that checked it makes of it."""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Unpack

from ttc.runtime.decoding.grammar import Grammar
from ttc.runtime.decoding.option_types import Options
from ttc.runtime.decoding.options import CheckedOptions, check_names
from ttc.runtime.decoding.result import Event

__all__ = ["Cancel", "Ending", "Request", "RowRequest"]


class Request:
    """A prompt with options of its own: `ttc.Request("…", mode="ar", n=2)`, wherever a prompt may stand.

    Attributes:
        prompt: text, or a sequence of token ids.
        fixed: token ids that stand already, by position among the new tokens (0 is the first): diffusion
            fills in the others, from both sides.
        options: as `Engine.generate` takes them, by name; what is not named is as in the call.
    """

    def __init__(
        self,
        prompt: str | Sequence[int],
        *,
        fixed: Mapping[int, int] | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_names(options)
        self.prompt, self.fixed, self.options = prompt, fixed, options


class Cancel:
    """Stops generations from another thread: give it to a call as `cancel=`, and call `cancel()`."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask for the end. The rows leave at the next tick, with finish_reason "cancelled"."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()


class Ending(Protocol):
    """Looks for an end that the core knows nothing of, such as a stop text."""

    def push(self, tokens: Sequence[int], final: bool = False) -> int | None:
        """Take new tokens; return how many of them belong to the result if it ends among them, else None.

        final: the row ends with them in any case.
        """

    def would_end(self, tokens: Sequence[int]) -> bool:
        """Return whether these tokens would end it; nothing is taken."""


@dataclass(frozen=True, slots=True)
class RowRequest:
    """One row, checked: only the reader makes these.

    Attributes:
        prompt: token ids, at least one.
        options: checked.
        row_key: the generator's key, from the row's own seed and choice number.
        max_new_tokens: with the end of the context taken into account.
        index: the row's number in its call, for events.
        fixed: token ids by position among the new tokens.
        ending: what ends the row beside eos and length; None for nothing.
        grammar: says which tokens may come; None for any.
        listener: gets an event per denoise step and per finished block; None where nobody listens.
        deadline: on the core's clock; None for none.
        cancels: each may ask for the row's end, which then comes at the next tick.
        choice: number of the text among those that one seed gives.
        priority: higher ones start first.
        owner: whose it is; owners share the core alike.
    """

    prompt: tuple[int, ...]
    options: CheckedOptions
    row_key: int
    max_new_tokens: int
    index: int = 0
    fixed: Mapping[int, int] = field(default_factory=dict)
    ending: Ending | None = None
    grammar: Grammar | None = None
    listener: Callable[[Event], None] | None = None
    deadline: float | None = None
    cancels: tuple[Cancel, ...] = ()
    choice: int = 0
    priority: int = 0
    owner: str = ""

    @property
    def most_tokens(self) -> int:
        """The most tokens that the row may come to hold."""
        return len(self.prompt) + self.max_new_tokens

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be computed for it."""
        return self.max_new_tokens == 0 and not self.options.prompt_logprobs

    def replace(self, **changes: Any) -> "RowRequest":
        """Return a copy with these fields changed."""
        return dataclasses.replace(self, **changes)
