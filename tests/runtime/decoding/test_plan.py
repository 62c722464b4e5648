"""The plan of a tick: a pure function of what is seen, asked about views of all kinds."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ttc.runtime.decoding.plan import STAGES, CoreLimits, Seen, Waiting, admit, denoises, reads
from ttc.runtime.decoding.work import Advance, Denoise, Read, Step
from ttc.runtime.interface.sampling import RowSampling

STEP = Step(0.9, 0.0, 1, 0, 16)
SAMPLING = RowSampling(0.0, None, None, 0, 0)
widths = st.sampled_from([1, 4, 16])


@st.composite
def dues(draw):
    """What a row may need, with the width of its call."""
    kind = draw(st.sampled_from(["denoise", "mock", "block", "verify", "ar", "prompt", "advance"]))
    width = draw(widths)
    tokens = tuple(range(width))
    if kind in ("denoise", "mock"):
        step = STEP if kind == "denoise" else None
        return Denoise(np.zeros(width, np.int32), 1.0, step, None if step else SAMPLING), width
    if kind == "advance":
        return Advance(1, draw(st.integers(0, 2))), 0
    made = {
        "block": Read(tokens, width),
        "verify": Read(tokens, 0, SAMPLING, tokens[1:]),
        "ar": Read((1,), 1, SAMPLING),
        "prompt": Read(tokens, width, prompt=True),
    }[kind]
    return made, len(made.tokens)


@st.composite
def views(draw):
    """Rows as planning sees them, in one or two states."""
    seen = []
    places = Counter()
    for number in range(draw(st.integers(0, 12))):
        due, width = draw(dues())
        state = draw(st.sampled_from([128, 256]))
        seen.append(Seen(number, state, places[state], width, due))
        places[state] += 1
    return draw(st.permutations(seen))


@given(views(), st.integers(1, 40))
def test_calls_are_well_formed(view, prompt_tokens):
    """No row twice in a stage, no mixed states, widths or kinds, rows in the order of their places."""
    limits = CoreLimits(16, None, prompt_tokens)
    by_id = {row.id: row for row in view}
    for stage in STAGES:
        calls = stage(view, limits)
        assert calls == stage(view, limits), "the same view gives the same calls"
        ids = [number for call in calls for number in call.ids]
        assert len(ids) == len(set(ids))
        for call in calls:
            rows = [by_id[number] for number in call.ids]
            assert {row.state for row in rows} == {call.state}
            assert len({row.width for row in rows}) == 1
            assert {type(row.due) for row in rows} == {call.kind}
            assert [row.index for row in rows] == sorted(row.index for row in rows)
            if call.kind is Read:
                assert (
                    len({(r.due.sampling is None, bool(r.due.draft), r.due.commit == 0) for r in rows}) == 1
                )
            if call.kind is Denoise:
                assert len({row.due.step is None for row in rows}) == 1
            if call.kind is Advance:
                assert len({row.due.call for row in rows}) == 1


@given(views(), st.integers(1, 40))
def test_nobody_is_left_out_but_prompts_over_the_budget(view, prompt_tokens):
    limits = CoreLimits(16, None, prompt_tokens)
    planned = {number for stage in STAGES for call in stage(view, limits) for number in call.ids}
    prompts = [
        row for row in sorted(view, key=lambda r: r.id) if isinstance(row.due, Read) and row.due.prompt
    ]
    assert {row.id for row in view} - planned <= {row.id for row in prompts}
    read = [row for row in prompts if row.id in planned]
    assert read == prompts[: len(read)], "nobody overtakes"
    assert not prompts or read, "one piece is always read"
    assert sum(row.width for row in read[1:]) + (read[0].width if read else 0) <= max(
        prompt_tokens, read[0].width if read else 0
    )


def test_every_filling_row_takes_a_step_each_tick():
    view = [Seen(i, 128, i, 16, Denoise(np.zeros(16, np.int32), 0.5, STEP)) for i in range(5)]
    (call,) = denoises(view, CoreLimits(16, None, 64))
    assert call.ids == (0, 1, 2, 3, 4)
    assert reads(view, CoreLimits(16, None, 64)) == []


requests = st.lists(st.integers(1, 100), max_size=10).map(
    lambda sizes: [Waiting(i, tokens) for i, tokens in enumerate(sizes)]
)


@given(requests, st.integers(0, 4), st.integers(0, 200), st.integers(1, 4), st.none() | st.integers(1, 200))
def test_admission_keeps_the_books(queue, rows, tokens, most_rows, most_tokens):
    limits = CoreLimits(most_rows, most_tokens, 64)
    admitted = admit(queue, rows, tokens, limits)
    assert list(admitted) == [request.id for request in queue[: len(admitted)]], "nobody overtakes"
    assert rows + len(admitted) <= max(rows, most_rows)
    held = tokens + sum(request.tokens for request in queue[: len(admitted)])
    alone = rows == 0 and len(admitted) == 1
    assert most_tokens is None or alone or not admitted or held <= max(most_tokens, queue[0].tokens)
    if queue and rows == 0:
        assert admitted, "a request alone is always let in"


OWNERS = st.sampled_from(["a", "b", "c"])
queues = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 1), OWNERS), max_size=12)


@given(queues, st.dictionaries(OWNERS, st.integers(0, 4)), st.integers(1, 8), st.integers(1, 4))
def test_owners_share(asked, running, rows, owner_rows):
    """Nobody gets more than one may have; nobody of equal priority gets a second seat before another who has
    fewer; one's own come in order.
    """
    queue = [
        Waiting(i, tokens, priority, owner, running.get(owner, 0))
        for i, (tokens, priority, owner) in enumerate(asked)
    ]
    limits = CoreLimits(rows, None, 64, owner_rows)
    started = admit(queue, sum(running.values()), 0, limits)
    assert len(set(started)) == len(started) <= max(rows - sum(running.values()), 0)
    have = Counter(running)
    left = {request.id: request for request in queue}
    for number in started:
        request = left.pop(number)
        assert have[request.owner] < owner_rows
        for other in left.values():
            if have[other.owner] >= owner_rows:
                continue
            assert other.priority <= request.priority
            if other.priority == request.priority:
                assert have[other.owner] >= have[request.owner]
                assert other.owner != request.owner or other.id > number
        have[request.owner] += 1
    free = rows - sum(have.values())
    assert free <= 0 or all(have[request.owner] >= owner_rows for request in left.values())


def test_prompts_take_turns():
    """A short prompt of one owner is read before the second of another, however old that is."""

    def prompt(number, owner):
        return Seen(number, 128, number, 64, Read(tuple(range(64)), 64, prompt=True), owner)

    view = [prompt(0, "a"), prompt(1, "a"), prompt(2, "a"), prompt(3, "b")]
    (call,) = reads(view, CoreLimits(16, None, 128))
    assert call.ids == (0, 3)
    (call,) = reads(view[:3], CoreLimits(16, None, 128))
    assert call.ids == (0, 1)


@given(
    views(),
    st.lists(OWNERS, min_size=12, max_size=12),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
)
def test_owners_share_calls(view, owners, served_in):
    """Nobody is served more rows in a tick than the owner with the fewest has; of each those that have waited
    longest, of these the oldest; and alone an owner is served as without.
    """
    view = [replace(row, owner=owners[row.id], served=served_in[row.id]) for row in view]
    shared = CoreLimits(16, None, 10**6, share_calls=True)
    counts = Counter(row.owner for row in view)
    for stage in STAGES[:2]:
        whole = {number for call in stage(view, CoreLimits(16, None, 10**6)) for number in call.ids}
        served = {number for call in stage(view, shared) for number in call.ids}
        assert served <= whole
        for owner in counts:
            own = [row.id for row in sorted(view, key=lambda row: (row.served, row.id)) if row.owner == owner]
            first = own[: min(counts.values())]
            assert {number for number in served if number in own} == whole & set(first)
        alone = [row for row in view if row.owner == "a"]
        assert stage(alone, shared) == stage(alone, CoreLimits(16, None, 10**6))


@given(views(), st.one_of(st.none(), st.integers(1, 6)))
def test_full_blocks_wait_for_each_other(view, when):
    """None is read while fewer wait than are wanted and somebody fills one; all else is as ever."""
    limits = CoreLimits(16, None, 10**6)
    blocks = {row.id for row in view if isinstance(row.due, Read) and is_block(row.due)}
    filling = any(isinstance(row.due, Denoise) for row in view)
    enough = max(1, len(view) // 4) if when is None else when
    at_once, together = (
        {number for call in reads(view, each) for number in call.ids}
        for each in (limits, replace(limits, extend_when=when))
    )
    assert together == (at_once - blocks if len(blocks) < enough and filling else at_once)


def is_block(due):
    return not due.prompt and due.sampling is None and not due.draft and not due.targets
