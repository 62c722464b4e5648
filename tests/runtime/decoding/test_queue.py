"""The queue shows admission a part of itself, and who is admitted is the same."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.golden import golden
from ttc.runtime.decoding.options import GenerationOptions, check_options
from ttc.runtime.decoding.plan import CoreLimits, Waiting, admit
from ttc.runtime.decoding.queue import Queue
from ttc.runtime.decoding.request import RowRequest
from ttc.runtime.decoding.rows import Row

OPTIONS = check_options(GenerationOptions(), golden("tiny_a").config)
asked = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1, 40)), max_size=30)


def queue_of(requests):
    queue = Queue()
    for number, (owner, priority, tokens) in enumerate(requests):
        queue.add(Row(number, RowRequest((5,), OPTIONS, 0, tokens, priority=priority, owner=owner)))
    return queue


def waiting(rows, running):
    return [
        Waiting(row.id, row.request.most_tokens, row.request.priority, row.request.owner, running)
        for row in rows
    ]


@given(asked, st.integers(0, 5), st.integers(1, 8), st.none() | st.integers(20, 200), st.none() | st.just(3))
def test_admission_sees_enough(requests, running, most, tokens, owner_rows):
    queue, limits = queue_of(requests), CoreLimits(most, tokens, 1, owner_rows)
    free = most - running
    of_all = admit(waiting(queue.rows, 1), running, running * 10, limits)
    assert len(queue) == len(requests)
    if free > 0:
        some = queue.first(free)
        assert len(some) <= free * 9
        assert admit(waiting(some, 1), running, running * 10, limits) == of_all
    else:
        assert not of_all


def test_who_is_taken_waits_no_longer():
    queue = queue_of([("a", 0, 1), ("b", 0, 1), ("a", 1, 1), ("a", 0, 1)])
    assert [row.id for row in queue.first(1)] == [0, 1, 2]
    assert queue.take(0).id == 0
    assert queue.take(0) is None
    assert [row.id for row in queue.first(2)] == [1, 2, 3]
    for number in (1, 2, 3):
        queue.take(number)
    assert not queue
    assert queue.first(5) == queue.rows == []
