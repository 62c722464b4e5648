"""What became of every token, frame by frame.

A block that opens is one frame, each denoise step one more, a finished block one more. Where a token is final
at once (AR), its only frame is that.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum

from ttc.animation.live import CONTROL
from ttc.runtime.decoding.result import Event, Result

__all__ = ["State", "Timeline", "Token", "recorded"]

Generation = Generator[Event, None, Result | list[Result]]


class State(StrEnum):
    """How a token looks."""

    MASKED = "masked"
    FRESH = "fresh"
    FILLED = "filled"
    SETTLED = "settled"
    GONE = "gone"


@dataclass(slots=True)
class Token:
    """One token of a block.

    Attributes:
        text: what it looks like.
        block: the block it was written in, as the timeline counts them.
        changes: (frame, state), ascending; nothing is seen before the first.
    """

    text: str
    block: int
    changes: list[tuple[int, State]] = field(default_factory=list)

    @property
    def stays(self) -> bool:
        """Whether it belongs to the result."""
        return bool(self.changes) and self.changes[-1][1] is not State.GONE

    def at(self, frame: int) -> State:
        """Return how it looks in a frame."""
        return next((state for begin, state in reversed(self.changes) if begin <= frame), State.GONE)

    def become(self, frame: int, state: State) -> None:
        """Change, from `frame` on; a fresh token is only filled in the frame after."""
        if self.changes and self.changes[-1][0] >= frame:
            self.changes.pop()
        self.changes.append((frame, state))
        if state is State.FRESH:
            self.changes.append((frame + 1, State.FILLED))


@dataclass(slots=True)
class Timeline:
    """Everything that is drawn of one row.

    Attributes:
        mode: of the generation.
        prompt: as text.
        piece: what a token looks like, by its id.
        headlines: one per frame.
        tokens: in the order in which they first appeared.
    """

    mode: str
    prompt: str
    piece: Callable[[int], str]
    headlines: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    _open: list[Token] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _block: int = 0
    _nfe: int = 0
    _final: int = 0

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return len(self.headlines)

    def feed(self, event: Event) -> None:
        """Take the next event of the row."""
        if event.committed:
            self._settle(event)
            return
        # In lossless mode the block begins with the row's last token, which is drawn already.
        known = 1 if self.mode == "lossless" else 0
        ids, masked = event.token_ids[known:], event.masked[known:]
        if event.step == 0 or not self._open:
            self._open = [Token("", self._block, [(self.frames, State.MASKED)]) for _ in ids]
            self._ids = [-1] * len(ids)
            self.tokens += self._open
            self._frame(f"block {event.block_index}", len(ids))
        self._nfe += 1
        frame = self.frames
        for position, (token, still) in enumerate(zip(ids, masked, strict=True)):
            if not still and self._ids[position] < 0:
                self._ids[position] = token
                self._open[position].text = self.piece(token)
                self._open[position].become(frame, State.FRESH)
        self._frame(f"block {event.block_index}  step {event.step + 1}", sum(masked))

    def _settle(self, event: Event) -> None:
        frame = self.frames
        kept = 0
        for token in event.token_ids:
            if kept < len(self._open) and self._ids[kept] == token:
                ends = self._open[kept].text == CONTROL
                self._open[kept].become(frame, State.GONE if ends else State.SETTLED)
            else:  # not drafted here: AR's own
                if kept < len(self._open):
                    self._open[kept].become(frame, State.GONE)
                self.tokens.append(Token(self.piece(token), self._block, [(frame, State.SETTLED)]))
            kept += 1
        for rest in self._open[kept:]:
            rest.become(frame, State.GONE)
        self._final += len(event.token_ids)
        if self.mode == "mock-ar":
            self._nfe += 1
        self._open, self._ids = [], []
        self._block += 1
        self._frame("token" if self.mode in ("ar", "mock-ar") else f"block {event.block_index}  done", 0)

    def _frame(self, where: str, masked: int) -> None:
        decided = self._final + len(self._open) - masked
        words = [where, f"{decided} tokens"]
        if self._nfe:
            words.append(f"{self._nfe} NFE  {decided / self._nfe:.2f} tokens/NFE")
        self.headlines.append("   ".join(words))


def recorded(events: Generation, timeline: Timeline) -> Generation:
    """Yield the same events, each fed to the timeline on its way."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            outcome: Result | list[Result] = end.value
            return outcome
        timeline.feed(event)
        yield event
