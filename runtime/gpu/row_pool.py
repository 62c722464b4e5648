"""The books of a pool: which of its rows and pages are whose, and nothing of what they hold.

A *page* holds the keys and values of PAGE tokens in every attention layer. A row of a context has a row of
the pool, which is where its Mamba state lies, and a *table*: the numbers of its pages, in the order of its
tokens. Rows and snapshots that begin alike refer to the same pages; a page that more than one refers to is
never written: whoever is about to, gets one of its own first (`cover`).

Row 0 and page 0 are nobody's. What fills a call up to its size points there, and so does a table beyond the
pages of its row: what is written there is never read.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PAGE", "SCRATCH", "RowPool", "pages_of"]

# Tokens of a page.
PAGE = 16
# The row and the page that are nobody's.
SCRATCH = 0

Ints = npt.NDArray[np.int32]


def pages_of(tokens: int) -> int:
    """Return how many pages hold so many tokens."""
    return -(-tokens // PAGE)


class RowPool:
    """Rows and pages, free or in use.

    Attributes:
        table: (rows, width) int32, the pages of every row in the order of its tokens, then zeros.
    """

    def __init__(self, rows: int, pages: int, width: int) -> None:
        """Args: rows and pages, the scratch ones among them; the most pages that a row may have."""
        self.table: Ints = np.zeros((1, width), np.int32)
        self._counts = np.zeros(1, np.int64)  # pages of each row
        self._references = np.ones(1, np.int64)  # of each page; the scratch page is never free
        self._free_rows: list[int] = []
        self._free_pages: list[int] = []
        self.enlarge(rows, pages, width)

    @property
    def rows(self) -> int:
        """Number of rows, the scratch row among them."""
        return len(self.table)

    @property
    def pages(self) -> int:
        """Number of pages, the scratch page among them."""
        return len(self._references)

    @property
    def width(self) -> int:
        """The most pages that a row may have."""
        return int(self.table.shape[1])

    @property
    def free_rows(self) -> int:
        """Rows that nobody has."""
        return len(self._free_rows)

    @property
    def free_pages(self) -> int:
        """Pages that nobody refers to."""
        return len(self._free_pages)

    def enlarge(self, rows: int, pages: int, width: int) -> None:
        """Have at least so many of each; what is in use keeps its numbers."""
        rows, pages, width = max(rows, self.rows), max(pages, self.pages), max(width, self.width)
        self._free_rows[:0] = range(rows - 1, self.rows - 1, -1)
        self._free_pages[:0] = range(pages - 1, self.pages - 1, -1)
        self.table = np.pad(self.table, ((0, rows - self.rows), (0, width - self.width)))
        self._counts = np.pad(self._counts, (0, rows - len(self._counts)))
        self._references = np.pad(self._references, (0, pages - self.pages))

    def take_row(self) -> int:
        """Return a row that was free, without pages; the caller has seen to it that there is one."""
        return self._free_rows.pop()

    def give_row(self, row: int) -> None:
        """Take a row back, with its pages."""
        self.clear_row(row)
        self._free_rows.append(row)

    def clear_row(self, row: int) -> None:
        """Leave a row without pages."""
        self._shorten(row, 0)

    def pages_in(self, row: int) -> list[int]:
        """Return the pages of a row, in the order of its tokens."""
        pages: list[int] = self.table[row, : self._counts[row]].tolist()
        return pages

    def due(self, row: int, start: int, stop: int) -> int:
        """Return how many free pages `cover` takes, of which it may give some back before."""
        kept = min(int(self._counts[row]), start // PAGE)
        own = self.table[row, start // PAGE : min(int(self._counts[row]), pages_of(stop))]
        return max(0, pages_of(stop) - kept - int((self._references[own] == 1).sum()))

    def cover(self, row: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Make a row ready for tokens `start` to `stop` to be written, of which none counts yet.

        The row then has the pages of the first `stop` tokens and no more, and those that will be written are
        its own. The caller has seen to it that there are `due` pages.

        Returns:
            (from, to): pages to be copied before, in which tokens before `start` lie.
        """
        assert pages_of(stop) <= self.width, f"{stop} tokens in a row of at most {self.width} pages"
        self._shorten(row, pages_of(stop))
        copies = []
        for at in range(start // PAGE, int(self._counts[row])):
            page = int(self.table[row, at])
            if self._references[page] > 1:
                new = self._take_page()
                if at * PAGE < start:
                    copies.append((page, new))
                self.table[row, at] = new
                self.drop([page])
        for at in range(int(self._counts[row]), pages_of(stop)):
            self.table[row, at] = self._take_page()
        self._counts[row] = max(int(self._counts[row]), pages_of(stop))
        return copies

    def refer(self, pages: Sequence[int]) -> None:
        """Count one more who refers to each of these pages."""
        for page in pages:
            self._references[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        """Count one less; pages to which nobody refers are free."""
        for page in pages:
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free_pages.append(page)

    def adopt(self, row: int, pages: Sequence[int]) -> None:
        """Let a row refer to these pages in place of those that it had."""
        self.refer(pages)  # first: some may be its own
        self._shorten(row, 0)
        self.table[row, : len(pages)] = pages
        self._counts[row] = len(pages)

    def _shorten(self, row: int, count: int) -> None:
        beyond = self.pages_in(row)[count:]
        self.drop(beyond)
        self.table[row, count : count + len(beyond)] = SCRATCH
        self._counts[row] -= len(beyond)

    def _take_page(self) -> int:
        page = self._free_pages.pop()
        self._references[page] = 1
        return page
