"""The books of a pool against a plain list of tokens for every row: over any sequence of what may happen."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from tests.support.compare import assert_equal
from ttc.runtime.gpu.row_pool import PAGE, SCRATCH, RowPool, pages_of

ROWS, WIDTH = 4, 4
COUNTS = st.integers(0, WIDTH * PAGE)
HAPPENS = st.one_of(
    st.tuples(st.just("take")),
    st.tuples(st.just("give"), st.integers(0, 9)),
    st.tuples(st.just("clear"), st.integers(0, 9)),
    st.tuples(st.just("write"), st.integers(0, 9), COUNTS, COUNTS),
    st.tuples(st.just("copy"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("save"), st.integers(0, 9)),
    st.tuples(st.just("load"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("forget"), st.integers(0, 9)),
    st.tuples(st.just("enlarge")),
)


class Books:
    """A pool whose pages hold tokens, and what each row and snapshot should hold."""

    def __init__(self):
        self.pool = RowPool(ROWS, ROWS * WIDTH + 1, WIDTH)
        self.pages = np.zeros((500, PAGE), np.int64)
        self.rows, self.saved, self.next = {}, [], 1

    def take(self):
        if not self.pool.free_rows:
            self.pool.enlarge(self.pool.rows + 1, 0, 0)
        row = self.pool.take_row()
        assert row not in (SCRATCH, *self.rows)
        self.rows[row] = []

    def give(self, which):
        row = self.pick(which)
        if row is not None:
            self.pool.give_row(row)
            del self.rows[row]

    def clear(self, which):
        row = self.pick(which)
        if row is not None:
            self.pool.clear_row(row)
            self.rows[row] = []

    def write(self, which, start, stop):
        """From any token that counts on, as after lengths were set back."""
        row = self.pick(which)
        if row is None:
            return
        start, stop = min(start, len(self.rows[row])), max(start, stop)
        due, free = self.pool.due(row, start, stop), self.pool.free_pages
        if due > free:
            self.pool.enlarge(0, self.pool.pages + due - free, 0)
        for source, target in self.pool.cover(row, start, stop):
            self.pages[target] = self.pages[source]
        new = list(range(self.next, self.next + stop - start))
        self.next += len(new)
        for token, position in zip(new, range(start, stop), strict=True):
            self.pages[self.pool.table[row, position // PAGE], position % PAGE] = token
        self.rows[row] = self.rows[row][:start] + new

    def copy(self, which, to):
        row, other = self.pick(which), self.pick(to)
        if row is not None:
            self.pool.adopt(other, self.pool.pages_in(row)[: pages_of(len(self.rows[row]))])
            self.rows[other] = list(self.rows[row])

    def save(self, which):
        row = self.pick(which)
        if row is not None:
            pages = self.pool.pages_in(row)[: pages_of(len(self.rows[row]))]
            self.pool.refer(pages)
            self.saved.append((pages, list(self.rows[row])))

    def load(self, which, snapshot):
        row = self.pick(which)
        if row is not None and self.saved:
            pages, tokens = self.saved[snapshot % len(self.saved)]
            self.pool.adopt(row, pages)
            self.rows[row] = list(tokens)

    def forget(self, snapshot):
        if self.saved:
            pages, _ = self.saved.pop(snapshot % len(self.saved))
            self.pool.drop(pages)

    def enlarge(self):
        self.pool.enlarge(self.pool.rows + 1, self.pool.pages + 2, self.pool.width + 1)

    def pick(self, which):
        return sorted(self.rows)[which % len(self.rows)] if self.rows else None

    def check(self):
        references = Counter()
        for row, tokens in self.rows.items():
            held = self.pool.pages_in(row)
            assert len(held) >= pages_of(len(tokens))
            assert_equal(self.pages[held].ravel()[: len(tokens)], np.array(tokens, np.int64), f"row {row}")
            assert not self.pool.table[row, len(held) :].any(), "beyond its pages a row points to scratch"
            references.update(held)
        for pages, tokens in self.saved:
            assert_equal(self.pages[pages].ravel()[: len(tokens)], np.array(tokens, np.int64), "snapshot")
            references.update(pages)
        assert SCRATCH not in references
        assert self.pool.free_pages == self.pool.pages - 1 - len(references), "no page is lost"
        assert self.pool.free_rows == self.pool.rows - 1 - len(self.rows), "no row is lost"
        assert not self.pool.table[SCRATCH].any()


@given(st.lists(HAPPENS, max_size=30))
def test_every_row_holds_what_was_written_to_it(events):
    books = Books()
    for name, *arguments in events:
        getattr(books, name)(*arguments)
        books.check()


@given(st.lists(HAPPENS, max_size=20), st.integers(0, 9), COUNTS, COUNTS)
def test_due_is_what_a_row_takes(events, which, start, stop):
    """Of free pages, when those that the row had beyond are back."""
    books = Books()
    books.take()
    for name, *arguments in events:
        getattr(books, name)(*arguments)
    row = books.pick(which)
    if row is None:
        return
    start = min(start, len(books.rows[row]))
    pool, stop = books.pool, max(start, stop)
    due = pool.due(row, start, stop)
    pool.enlarge(0, pool.pages + due, 0)
    beyond = pool.pages_in(row)[pages_of(stop) :]
    shared = Counter(page for held in books.rows for page in pool.pages_in(held))
    shared.update(page for pages, _ in books.saved for page in pages)
    before = pool.free_pages
    copies = pool.cover(row, start, stop)
    assert len(copies) <= 1, "at most the page in which the first token lies"
    given_back = sum(shared[page] == 1 for page in beyond)
    assert before + given_back - due == pool.free_pages


def test_whole_pages_are_shared_and_a_partial_one_is_copied_by_who_writes():
    pool = RowPool(3, 9, 4)
    row, other = pool.take_row(), pool.take_row()
    assert pool.cover(row, 0, 40) == []
    first, second, third = pool.pages_in(row)
    pool.adopt(other, pool.pages_in(row))
    assert pool.cover(other, 40, 41) == [(third, pool.pages_in(other)[2])]
    assert pool.pages_in(other)[:2] == [first, second]
    assert pool.cover(row, 40, 41) == [], "nobody else refers to it any more"
    assert pool.pages_in(row) == [first, second, third]
