"""The tokenizer, and new tokens → text: at the end, piece by piece, and up to a stop text."""

from collections.abc import Collection, Sequence

from tokenizers import Tokenizer

from ttc.errors import BundleError
from ttc.formats.tokenizer import open_tokenizer
from ttc.model.bundle import Bundle

__all__ = ["RowText", "TextStream", "decode", "load_tokenizer", "without_control_tokens"]

_INCOMPLETE = "\ufffd"
# A UTF-8 character has at most four bytes, so a character that is open has at most three tokens of one byte;
# after so many tokens without a whole one, the bytes are no characters.
_LONGEST_OPEN, _MOST_HELD = 3, 8
# Most tokens of a window that begins with tokens of no text.
_WIDEST = 64


def load_tokenizer(bundle: Bundle) -> Tokenizer | None:
    """Return the bundle's tokenizer; None where it has none."""
    raw = bundle.read_tokenizer()
    return None if raw is None else open_tokenizer(raw, str(bundle.tokenizer_path), BundleError)


def without_control_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that reads control tokens in a text as the plain text they are written in."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain


def decode(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    eos_token_ids: Collection[int],
    skip_special_tokens: bool = True,
) -> str:
    """Return the text of the new tokens without the eos that ended them."""
    if tokens and tokens[-1] in eos_token_ids:
        tokens = tokens[:-1]
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)
    return text


class TextStream:
    """Text of a growing list of tokens, piece by piece; the pieces join to the whole.

    Tokens are decoded in a window: those since the last piece, after those of the last piece, because a
    tokenizer may write a token otherwise at the start of a text than within it. So a piece costs what is new,
    not what has been written. A piece that would end inside a character is held back until that is complete
    or the row ends. Tokens that are not shown never enter the window: a character goes on after them.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        added = tokenizer.get_added_tokens_decoder() if skip_special_tokens else {}
        self._hidden = frozenset(token for token, said in added.items() if said.special)
        self._tokens: list[int] = []
        # The window: from the last piece's first token; what follows it is new.
        self._start = self._read = 0

    def mark(self) -> tuple[int, int, int]:
        """Return where the stream stands, for `rewind`."""
        return len(self._tokens), self._start, self._read

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Forget what was pushed since."""
        count, self._start, self._read = mark
        del self._tokens[count:]

    def push(self, tokens: Sequence[int], final: bool = False) -> str:
        """Return the text that these further tokens add; `final`: nothing more will come."""
        self._tokens += [token for token in tokens if token not in self._hidden]
        piece = self._upto(len(self._tokens))
        if piece.endswith(_INCOMPLETE) and not final:
            if len(self._tokens) - self._read <= _MOST_HELD:
                return ""
            return self._settled_part()
        self._give(piece, len(self._tokens))
        return piece

    def _give(self, piece: str, end: int) -> None:
        """Begin the window with the tokens up to `end`, which have added a piece, if they wrote anything."""
        if piece or end - self._start > _WIDEST:
            self._start = self._read
        self._read = end

    def _settled_part(self) -> str:
        """Return the part of what is held that can no longer become a character."""
        latest = len(self._tokens) - _LONGEST_OPEN
        for end in range(latest, self._read, -1):
            if not (piece := self._upto(end)).endswith(_INCOMPLETE):
                break
        else:
            end, piece = latest, self._upto(latest)
        self._give(piece, end)
        return piece

    def _upto(self, end: int) -> str:
        """Return what the tokens from the last piece's end up to `end` add to it."""
        before: str = self._text(self._start, self._read)
        text: str = self._text(self._start, end)
        return text[len(before) :]

    def _text(self, start: int, stop: int) -> str:
        text: str = self._tokenizer.decode(self._tokens[start:stop], skip_special_tokens=self._skip)
        return text


class RowText:
    """The text of one row while it is written, up to the first of some stop texts.

    It is the row's `Ending`. What may be the beginning of a stop text is held back from the pieces.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_ids: Collection[int],
        stop: Sequence[str] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self._stream = TextStream(tokenizer, skip_special_tokens)
        self._eos, self._stop = eos_token_ids, stop
        self._given = 0
        self.text = ""
        self._stopped = False

    def push(self, tokens: Sequence[int], final: bool = False) -> int | None:
        """Take new tokens; return how many of them the result keeps if a stop text ends among them.

        final: nothing more will come, so what is held back counts too.
        """
        if not self._stop:
            self.text += self._stream.push([token for token in tokens if token not in self._eos])
            return None
        for i, token in enumerate(tokens):
            if token not in self._eos and self._append(self._stream.push([token])):
                return i + 1
        if final and self._append(self._stream.push([], final=True)):
            return len(tokens)
        return None

    def would_end(self, tokens: Sequence[int]) -> bool:
        """Return whether a stop text would end among these further tokens; nothing is taken."""
        if not self._stop:
            return False
        before, text = self._stream.mark(), self.text
        try:
            return self.push(tokens) is not None
        finally:
            self._stream.rewind(before)
            self.text, self._stopped = text, False

    def finish(self) -> str | None:
        """Nothing more will come: take what was held back. Return the whole text."""
        if not self._stopped:
            self._append(self._stream.push([], final=True))
        return self.text

    def piece(self, final: bool) -> str:
        """Return the text that nobody was given yet, but for what may become a stop text."""
        if final:
            self.finish()
        end = len(self.text) if final else len(self.text) - self._open()
        piece = self.text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _append(self, piece: str) -> bool:
        """Add a piece; whether a stop text is in the text now, which then ends before it."""
        longest = max(map(len, self._stop), default=0)
        since = max(0, len(self.text) - longest + 1)
        self.text += piece
        found = [at for stop in self._stop if (at := self.text.find(stop, since)) >= 0]
        if found:
            self.text, self._stopped = self.text[: min(found)], True
        return self._stopped

    def _open(self) -> int:
        """Return how many last characters may be the beginning of a stop text."""
        longest = max(map(len, self._stop), default=0)
        for count in range(min(longest - 1, len(self.text)), 0, -1):
            ending = self.text[-count:]
            if any(stop.startswith(ending) for stop in self._stop):
                return count
        return 0
