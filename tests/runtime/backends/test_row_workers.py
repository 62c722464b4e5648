"""Calls cut by rows."""

import threading
import time
from functools import partial

import pytest

from ttc.runtime.backends.onnxruntime.row_workers import RowWorkers


@pytest.mark.parametrize(
    ("count", "rows", "tokens", "parts"),
    [
        (1, 16, 16, 1),
        (2, 1, 64, 1),
        (2, 2, 16, 1),
        (2, 4, 16, 2),
        (8, 16, 16, 8),
        (8, 5, 32, 5),
        (2, 16, 1, 1),
    ],
)
def test_every_row_is_in_one_part(count: int, rows: int, tokens: int, parts: int) -> None:
    found = RowWorkers(count).cut(rows, tokens)
    assert len(found) == parts
    assert [row for part in found for row in range(rows)[part]] == list(range(rows))


def test_results_in_order_from_several_threads() -> None:
    workers, met = RowWorkers(3), threading.Barrier(3, timeout=20)

    def call(number: int) -> tuple[int, int]:
        met.wait()  # nobody goes on before all are there
        return number, threading.get_ident()

    found = workers.run([partial(call, n) for n in range(3)])
    workers.close()
    assert [number for number, _ in found] == [0, 1, 2]
    assert len({thread for _, thread in found}) == 3
    assert found[0][1] == threading.get_ident()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_waits_for_the_others(failing: int) -> None:
    workers, done = RowWorkers(2), []

    def fails() -> None:
        raise ValueError("of part")

    def works() -> None:
        time.sleep(0.05)
        done.append(True)

    with pytest.raises(ValueError, match="of part"):
        workers.run([fails, works] if failing == 0 else [works, fails])
    assert done
    workers.close()
