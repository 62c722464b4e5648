"""A generation while it happens: events → a picture for a terminal, or plain lines. Nothing is printed."""

from collections.abc import Callable
from dataclasses import replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.text import Text
from tokenizers import Tokenizer

from ttc.runtime.decoding.result import Event

__all__ = ["CONTROL", "StepView", "pieces", "visible"]

MASK, CONTROL = "░", "·"
_MARKS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
_OWN, _REJECTED = "bold yellow", "red strike"
_PROMPT, _SETTLED, _OPEN, _FRESH, _UNDECIDED = "dim", "", "green", "bold black on bright_green", "dim cyan"


def pieces(tokenizer: Tokenizer | None) -> Callable[[int], str]:
    """Return what one token looks like: its text in the middle of a line, or its id without a tokenizer.
    A control token, as the one that ends a text, is a dot.
    """
    if tokenizer is None:
        return str
    controls = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}

    def piece(token: int) -> str:
        if token in controls:
            return CONTROL
        # Decoders may drop the blank before the first token, so the second of two is looked at.
        once: str = tokenizer.decode([token], skip_special_tokens=False)
        twice: str = tokenizer.decode([token, token], skip_special_tokens=False)
        return twice[len(once) :] or once

    return piece


def visible(text: str, keep_newlines: bool = False) -> str:
    """Text in which every control character can be seen, and none acts on the terminal."""
    return "".join(c if c == "\n" and keep_newlines else _visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    if c in _MARKS:
        return _MARKS[c]
    return f"\\x{ord(c):02x}" if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 else c


class StepView:
    """One row's generation so far. Give it every event; it is a renderable and counts on the way.

    Attributes:
        tokens: new tokens that are final.
        text: their text; ids where there is no text.
        nfe: denoiser evaluations so far.
        nfe_per_block: the same, block by block.
    """

    def __init__(self, mode: str, prompt: str, tokenizer: Tokenizer | None) -> None:
        """`mode` as of the generation; `tokenizer` None shows ids."""
        self._mode, self._prompt = mode, prompt
        self._piece, self._gap = pieces(tokenizer), " " if tokenizer is None else ""
        self._shows_ids = tokenizer is None
        self.tokens: list[int] = []
        self.text = self._before = ""
        self.nfe_per_block: list[int] = []
        self._event: Event | None = None
        self._was_masked: tuple[bool, ...] = ()

    @property
    def nfe(self) -> int:
        """Denoiser evaluations so far."""
        return sum(self.nfe_per_block)

    def feed(self, event: Event) -> str:
        """Take the next event; returns it as one plain line."""
        if event.committed:
            return self._settle(event)
        if event.step == 0 or self._event is None:
            self._was_masked = (True,) * len(event.masked)
            self.nfe_per_block.append(0)
        else:
            self._was_masked = self._event.masked
        self.nfe_per_block[-1] += 1
        self._event = event
        shown = self._gap.join(MASK if masked else piece for piece, masked, _ in self._drafted(event))
        return f"{self._headline(event)} | {visible(shown)}"

    def open_block(self, event: Event) -> bool:
        """Show the block with nothing decided, if the next `event` is its first; whether it is."""
        if event.committed or event.step > 0:
            return False
        self._was_masked = (True,) * len(event.masked)
        self._event = replace(event, step=-1, masked=self._was_masked)
        return True

    def _settle(self, event: Event) -> str:
        added = " ".join(map(str, event.token_ids)) if self._shows_ids else event.text or ""
        if self._mode == "mock-ar" or (self._mode == "lossless" and event.step == 0):
            self.nfe_per_block.append(int(self._mode == "mock-ar"))
        self._before, self.text = self.text, self.text + self._gap * bool(self.text) + added
        self.tokens += event.token_ids
        self._event = event
        if event.draft_record is None:
            return f"{self._headline(event)} | {visible(added)}"
        accepted, bonus, rejected = (visible(part) for part in self._parts(event))
        marked = accepted + (f"[+{bonus}]" if bonus else "") + (f"[-{rejected}]" if rejected else "")
        return f"{self._headline(event)} | {marked}"

    def _parts(self, event: Event) -> tuple[str, str, str]:
        """Of a finished round: what was accepted, the bonus token, what was rejected."""
        assert event.draft_record is not None, "of a finished round of lossless mode"
        accepted = event.draft_record.accepted
        parts = (event.token_ids[:accepted], event.token_ids[accepted:], event.rejected)
        accepted_text, bonus, rejected = (self._gap.join(map(self._piece, part)) for part in parts)
        return accepted_text, bonus, rejected

    def _headline(self, event: Event) -> str:
        """Return where the generation stands, without times: the same run gives the same lines."""
        if self._mode == "lossless":
            return self._round_headline(event)
        if self._mode != "diffusion":
            word = "round" if self._mode == "prompt-lookup" else "token"
            where = f"{word} {event.block_index:3}"
        elif event.committed:
            where = f"block {event.block_index:3}  done in {event.step:2} steps"
        else:
            where = f"block {event.block_index:3}  step {event.step + 1:2}  {sum(event.masked):2} masked"
        if not self.nfe:
            return where
        # Positions decided so far; the last block may still be cut.
        decided = len(self.tokens) + (0 if event.committed else event.masked.count(False))
        return f"{where}  NFE {self.nfe:3}  {decided / self.nfe:5.2f} tokens/NFE"

    def _round_headline(self, event: Event) -> str:
        """Of a round: the step, or how it came out, and what the policy expected of it."""
        where = f"round {event.block_index:3}"
        if not event.committed:
            masked = sum(masked for _, masked, _ in self._drafted(event))
            return f"{where}  step {event.step + 1:2}  {masked:2} masked"
        if event.draft_record is None:
            return f"{where}  from the prompt"
        done, plan = event.draft_record, event.draft_record.plan
        drafted = f"{done.drafted:2} drafted in {done.steps:2} steps, {done.accepted:2} accepted"
        ending = "corrected" if event.rejected else "continued"
        if len(event.token_ids) <= done.accepted:
            ending = "ended"
        grounds = plan.reason
        if plan.expected_tokens is not None and plan.expected_seconds is not None:
            grounds += f": {plan.expected_tokens:.1f} tokens in {1e3 * plan.expected_seconds:.1f} ms"
        return f"{where}  {drafted}, {ending}, {len(event.rejected):2} rejected  ({grounds})"

    def _drafted(self, event: Event) -> list[tuple[str, bool, bool]]:
        """Return the cells of a step's block, in lossless mode without the first: it stands in the text
        already.
        """
        return self._cells(event)[1:] if self._mode == "lossless" else self._cells(event)

    def _cells(self, event: Event) -> list[tuple[str, bool, bool]]:
        """Per position of the open block: what stands there, whether it is undecided, whether it is new."""
        return [
            (self._piece(token), masked, was and not masked)
            for token, masked, was in zip(event.token_ids, event.masked, self._was_masked, strict=True)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield a panel with the end of the text, as much as the screen holds."""
        title, below = Text("reading the prompt"), Text()
        body = Text().append(visible(self._prompt, keep_newlines=True) + self._gap, _PROMPT)
        body.append_text(self._settled_text())
        if self._event is not None:
            title = Text(self._headline(self._event))
            if not self._event.committed:
                body.append_text(self._open_block(self._event))
                below = self._map(self._event)
        lines = body.wrap(console, max(options.max_width - 4, 1))[-max(console.size.height - 4, 3) :]
        yield Panel(
            Text("\n").join(lines),
            title=title,
            title_align="left",
            subtitle=below,
            subtitle_align="left",
            border_style="cyan",
        )

    def _settled_text(self) -> Text:
        """Return the final text; what a round has just added is marked, and what it rejected stands behind
        it.
        """
        event = self._event
        if event is None or event.draft_record is None:
            return Text(visible(self.text, keep_newlines=True), _SETTLED)
        text = Text(visible(self._before, keep_newlines=True), _SETTLED)
        for part, style in zip(self._parts(event), (_OPEN, _OWN, _REJECTED), strict=True):
            text.append(self._gap * bool(part) + visible(part, keep_newlines=True), style)
        return text

    def _open_block(self, event: Event) -> Text:
        block = Text()
        for piece, masked, fresh in self._drafted(event):
            block.append(self._gap)
            if masked:
                block.append(MASK * 2, _UNDECIDED)
            else:
                block.append(visible(piece), _FRESH if fresh else _OPEN)
        return block

    def _map(self, event: Event) -> Text:
        """Return the block's positions, one cell each."""
        cells = Text()
        for _, masked, fresh in self._drafted(event):
            settled = "bright_green" if fresh else "green"
            cells.append("□" if masked else "■", _UNDECIDED if masked else settled)
        return cells
