"""Requests that wait, in order of arrival; by owner and priority, so that a long queue costs no more than a
short one when somebody may start.
"""

from ttc.runtime.decoding.rows import Row

__all__ = ["Queue"]


class Queue:
    """Rows that wait. Any thread may ask for `rows` and the length."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._lines: dict[tuple[str, int], dict[int, Row]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[Row]:
        """All of them, in order."""
        return list(self._rows.values())

    def add(self, row: Row) -> None:
        """Let a row wait behind all others."""
        self._rows[row.id] = row
        self._lines.setdefault(_line(row), {})[row.id] = row

    def take(self, number: int) -> Row | None:
        """Return the row of this number, which waits no longer; None where none does."""
        row = self._rows.pop(number, None)
        if row is not None:
            line = self._lines[_line(row)]
            del line[number]
            if not line:
                del self._lines[_line(row)]
        return row

    def first(self, count: int) -> list[Row]:
        """Return the rows of which so many may start: of every owner and priority the first `count`, in order
        of arrival. An owner's rows of one priority start in that order, so no others can be among them.
        """
        found = [
            row for line in self._lines.values() for _, row in zip(range(count), line.values(), strict=False)
        ]
        return found if len(self._lines) == 1 else sorted(found, key=lambda row: row.id)


def _line(row: Row) -> tuple[str, int]:
    return row.request.owner, row.request.priority
