"""Where everything stands: a grid of characters, as on a terminal.

Tokens are placed by their final text, so that nothing moves while a block fills. What is thrown away stands
where it stood, and what comes later may stand there again.
"""

from dataclasses import dataclass

from rich.cells import cell_len

from ttc.animation.live import visible
from ttc.animation.timeline import Timeline, Token

__all__ = ["Piece", "Sheet", "lay_out"]

_COLUMNS, _PROMPT_ROWS, _MASK_CELLS = 80, 8, 2


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of characters on one row; `token` is None for the prompt."""

    row: int
    column: int
    cells: int
    text: str
    token: Token | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """All pieces, and the size of the grid that holds them."""

    pieces: tuple[Piece, ...]
    rows: int
    columns: int


class _Pen:
    """Writes along the rows and remembers the pieces."""

    def __init__(self, columns: int, row: int = 0, column: int = 0) -> None:
        self._columns, self.row, self.column = columns, row, column

    def write(self, text: str, token: Token | None) -> list[Piece]:
        """Write a word or token, whole on one row unless it is longer than one; a line end ends the row."""
        pieces = []
        for i, line in enumerate(text.split("\n")):
            if i:
                self.row, self.column = self.row + 1, 0
            shown = visible(line)
            if self.column and self.column + cell_len(shown) > self._columns:
                self.row, self.column = self.row + 1, 0
                shown = shown.lstrip(" ")
            while shown:
                part = _fitting(shown, self._columns - self.column)
                pieces.append(Piece(self.row, self.column, cell_len(part), part, token))
                self.column += cell_len(part)
                shown = shown[len(part) :]
                if shown:
                    self.row, self.column = self.row + 1, 0
        return pieces


def lay_out(timeline: Timeline, columns: int = _COLUMNS) -> Sheet:
    """Place the prompt's end and all tokens on rows of so many cells."""
    pen = _Pen(columns)
    pieces = [piece for word in _words(timeline.prompt) for piece in pen.write(word, None)]
    draft = _Pen(columns)
    block = -1
    for token in timeline.tokens:
        if token.block != block:
            block = token.block
            draft = _Pen(columns, pen.row, pen.column)
        text = token.text or " " * _MASK_CELLS
        if token.stays:
            pieces += pen.write(text, token)
            # What is thrown away stands behind what is kept.
            draft = _Pen(columns, pen.row, pen.column) if _is_behind(pen, draft) else draft
        else:
            pieces += draft.write(text, token)
    first = max(0, _last_prompt_row(pieces) - _PROMPT_ROWS + 1)
    shown = [
        Piece(piece.row - first, piece.column, piece.cells, piece.text, piece.token)
        for piece in pieces
        if piece.row >= first
    ]
    return Sheet(tuple(shown), max((piece.row for piece in shown), default=0) + 1, columns)


def _is_behind(pen: _Pen, draft: _Pen) -> bool:
    return (pen.row, pen.column) > (draft.row, draft.column)


def _last_prompt_row(pieces: list[Piece]) -> int:
    return max((piece.row for piece in pieces if piece.token is None), default=0)


def _words(text: str) -> list[str]:
    """Words with the blank before them, so that rows break between words."""
    words: list[str] = []
    for character in text:
        if not words or character in " \n":
            words.append(character)
        else:
            words[-1] += character
    return words


def _fitting(text: str, cells: int) -> str:
    """As many characters as fit into the cells, at least one."""
    end = 1
    while end < len(text) and cell_len(text[: end + 1]) <= cells:
        end += 1
    return text[:end]
