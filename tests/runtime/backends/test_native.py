"""ONNX Runtime's own operators in place of ours: few nodes, and the numbers of the bodies."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close
from ttc.model.bundle import Bundle
from ttc.model.graphs import is_mamba_state
from ttc.runtime.backends.onnxruntime.bound_state import BoundState
from ttc.runtime.backends.onnxruntime.in_place import InPlaceBackend
from ttc.runtime.backends.onnxruntime.load import load
from ttc.runtime.backends.onnxruntime.run import OnnxRuntimeBackend
from ttc.runtime.interface.settings import LoadSettings
from ttc.runtime.interface.state import ContextState

Bundles = Callable[..., Path]
# What the graphs of the miniature have, and a few more for another release to add.
MOST_NODES = {"context": 140, "denoiser": 190, "advance": 70}
ROWS, LENGTHS = 4, [9, 30, 17, 22]


@pytest.fixture(scope="module")
def native(bundles: Bundles) -> Iterator[OnnxRuntimeBackend]:
    with Bundle.open(bundles("tiny_b")) as bundle:
        backend = load(bundle, LoadSettings(threads=1))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def bodies(bundles: Bundles) -> Iterator[OnnxRuntimeBackend]:
    with Bundle.open(bundles("tiny_b")) as bundle:
        backend = load(bundle, LoadSettings(), native=False)
    yield backend
    backend.close()


def tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(7 * length).integers(4, 60, (rows, length)).astype(np.int32)


def read(
    backend: OnnxRuntimeBackend, state: ContextState, ids: np.ndarray, commit: Sequence[int], **how
) -> np.ndarray:
    positions = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    call = backend.context(state, ids, np.array(commit, np.int32), positions, **how)
    return backend.fetch(call.logits)


def filled(backend: OnnxRuntimeBackend, capacity: int = 64) -> ContextState:
    """Rows of several lengths."""
    state = backend.new_state(ROWS, capacity)
    for row, length in enumerate(LENGTHS):
        read(backend, state, tokens(1, length), [length], rows=np.array([row], np.int32))
    return state


def block(rows: int, length: int = 8) -> np.ndarray:
    ids = tokens(rows, length)
    ids[:, 3:] = 3
    return ids


def test_few_nodes(bundles: Bundles, tmp_path: Path) -> None:
    def prepare(role: str, _: object, options: object) -> None:
        options.optimized_model_filepath = str(tmp_path / role)  # type: ignore[attr-defined]

    with Bundle.open(bundles("miniature", None)) as bundle:
        load(bundle, LoadSettings(), prepare=prepare).close()
    counts = {role: len(onnx.load(tmp_path / role).graph.node) for role in MOST_NODES}
    assert all(counts[role] <= most for role, most in MOST_NODES.items()), counts
    assert not (tmp_path / "step").exists(), "the step is taken on the host"


def test_the_numbers_of_the_bodies(native: OnnxRuntimeBackend, bodies: OnnxRuntimeBackend) -> None:
    assert isinstance(native, InPlaceBackend)
    states = {backend: filled(backend) for backend in (native, bodies)}
    few = np.array([0, 2], np.int32)  # rows that are not neighbours
    for ids, commit, rows in (
        (tokens(ROWS, 8), [8, 8, 8, 8], None),
        (tokens(ROWS, 1), [1, 1, 1, 1], None),
        (tokens(ROWS, 5), [5, 0, 3, 2], None),
        (tokens(2, 4), [4, 4], few),
        (tokens(2, 6), [1, 6], few),
    ):
        got, want = (read(backend, state, ids, commit, rows=rows) for backend, state in states.items())
        assert_close(got, want, tolerances.CONTEXT_LOGITS, f"logits, {commit}")
        same_states(states)
    for rows in (None, few):
        ids = block(ROWS if rows is None else 2)
        t = np.array([0.6, -1.0, 1.0, 0.25], np.float32)[: len(ids)]
        got, want = (backend.fetch(backend.denoise(state, ids, t, rows)) for backend, state in states.items())
        assert_close(got, want, tolerances.DENOISER_LOGITS, "denoiser logits")


def test_advance_as_the_bodies(native: OnnxRuntimeBackend, bodies: OnnxRuntimeBackend) -> None:
    states = {backend: filled(backend) for backend in (native, bodies)}
    for rows in (np.arange(ROWS, dtype=np.int32), np.array([1, 3], np.int32)):
        ids, nowhere = tokens(len(rows), 6), np.zeros(len(rows), np.int32)
        for backend, state in states.items():
            call = backend.context(state, ids, nowhere, nowhere[:, None], save=True, rows=rows)
            backend.advance(state, call.saved, np.arange(len(rows), dtype=np.int32) * 2, rows)
        same_states(states)


def test_advance_past_a_whole_block(native: OnnxRuntimeBackend) -> None:
    """The state of the context call itself is what the graph of advance gives, row by row, in any company."""
    assert isinstance(native, InPlaceBackend)
    ids, length = tokens(ROWS, 6), np.full(ROWS, 6, np.int32)
    commit = np.array([6, 2, 6, 0], np.int32)
    states = {how: filled(native) for how in ("graph", "whole", "some")}
    nowhere = np.zeros(ROWS, np.int32)
    for how, state in states.items():
        call = native.context(state, ids, nowhere, nowhere[:, None], save=True)
        if how == "graph":
            native._advance(state, state.rows(None), call.saved, length)
            state.lengths += length
        else:
            native.advance(state, call.saved, length if how == "whole" else commit)
    assert states["some"].lengths.tolist() == [15, 32, 23, 22]
    graph, whole, some = (native.read_state(state) for state in states.values())
    for name in filter(is_mamba_state, graph):
        assert_close(whole[name], graph[name], tolerances.CACHES, name)
        for row in (0, 2):
            assert np.array_equal(some[name][row], whole[name][row]), (name, row)
        assert not np.array_equal(some[name][1], whole[name][1]), name


def same_states(states: dict[OnnxRuntimeBackend, ContextState]) -> None:
    (native, one), (bodies, other) = states.items()
    assert one.lengths.tolist() == other.lengths.tolist()
    got, want = native.read_state(one), bodies.read_state(other)
    for name, tensor in want.items():
        for row, length in enumerate(one.lengths.tolist()):
            held = slice(None) if is_mamba_state(name) else (slice(None), slice(length))
            assert_close(got[name][row][held], tensor[row][held], tolerances.CACHES, f"{name}, row {row}")


@pytest.mark.parametrize("threads", [2, None])
def test_a_rows_numbers_are_its_own(
    bundles: Bundles, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: alone or in company, in a small state or in a large one, by one thread or two, which
    share the nodes or, by default, the rows.
    """
    monkeypatch.setattr("ttc.runtime.backends.onnxruntime.load.usable_cores", lambda: 2)
    with Bundle.open(bundles("miniature", None)) as bundle:
        first, backend = load(bundle, LoadSettings(threads=1)), load(bundle, LoadSettings(threads=threads))
    together = filled(backend, 256)
    alone = [first.select(filled(first), np.array([row], np.int32)) for row in range(ROWS)]
    t = np.full(ROWS, 0.5, np.float32)
    for length in (1, 3, 16):
        ids = tokens(ROWS, length)
        got = read(backend, together, ids, [length] * ROWS)
        for row, state in enumerate(alone):
            want = read(first, state, ids[row : row + 1], [length])
            assert np.array_equal(got[row], want[0]), (length, row)
    got = backend.fetch(backend.denoise(together, block(ROWS, 16), t))
    for row, state in enumerate(alone):
        want = first.fetch(first.denoise(state, block(ROWS, 16)[row : row + 1], t[:1]))
        assert np.array_equal(got[row], want[0]), row
    for each in (first, backend):
        each.close()


@pytest.mark.parametrize("capacity", [128, 256, 512, 1024, 1600])
def test_a_neighbours_length_changes_nothing(bundles: Bundles, capacity: int) -> None:
    """To the last bit, though the denoiser's attention runs over as many tokens as the longest row needs."""
    with Bundle.open(bundles("miniature", None)) as bundle:
        backend = load(bundle, LoadSettings(threads=1))
    assert isinstance(backend, InPlaceBackend)
    lengths = [capacity // 4 + 5, 3 * capacity // 4, capacity - 16, capacity // 2 + 9]
    together = backend.new_state(4, capacity)
    t, blocks = np.array([1.0, 0.25, 0.5, 0.75], np.float32), block(4, 16)
    alone = []
    for row, length in enumerate(lengths):
        state = backend.new_state(1, capacity)
        for start in range(0, length, 64):
            ids = tokens(1, 2048)[:, start : min(start + 64, length)]
            read(backend, state, ids, [ids.shape[1]])
            read(backend, together, ids, [ids.shape[1]], rows=np.array([row], np.int32))
        alone.append(backend.denoise(state, blocks[row : row + 1], t[row : row + 1])[0])
    for _ in range(2):
        got = backend.denoise(together, blocks, t)
        for row, want in enumerate(alone):
            assert np.array_equal(got[row], want), row
        two = backend.denoise(together, blocks[:2], t[:2], np.array([0, 1], np.int32))
        apart = backend.denoise(together, blocks[::2], t[::2], np.array([0, 2], np.int32))
        assert np.array_equal(two, got[:2])
        assert np.array_equal(apart, got[::2])
    backend.close()


def test_a_short_row_costs_the_same_at_any_capacity(bundles: Bundles) -> None:
    """The denoiser reads what the row holds, not what it could hold."""
    with Bundle.open(bundles("miniature", None)) as bundle:
        backend = load(bundle, LoadSettings(threads=1))
    found = []
    for capacity in (128, 4096):
        state = backend.new_state(1, capacity)
        read(backend, state, tokens(1, 64), [64])
        found.append(backend.denoise(state, block(1, 16), np.ones(1, np.float32)))
        assert isinstance(state, BoundState)
        (shapes,) = [
            binding.inputs["attention_mask"].shape
            for key, binding in state.bindings.items()
            if key[0] == "denoiser"
        ]
        assert shapes == (1, 1, 16, 64 + 16)
    assert np.array_equal(*found)
    backend.close()


def test_what_lies_beyond_a_row_changes_nothing(native: OnnxRuntimeBackend) -> None:
    state, soiled = filled(native), filled(native)
    for name, tensor in soiled.tensors.items():
        if not is_mamba_state(name):
            for row, length in enumerate(LENGTHS):
                tensor[row, :, length:] = 1e4
    for ids in (tokens(ROWS, 1), tokens(ROWS, 8)):
        commit = [ids.shape[1]] * ROWS
        assert np.array_equal(read(native, state, ids, commit), read(native, soiled, ids, commit))
    t = np.full(ROWS, 0.5, np.float32)
    assert np.array_equal(
        native.denoise(state, block(ROWS), t),
        native.denoise(soiled, block(ROWS), t),
    )


def test_a_state_outlives_more_rows_and_many_calls(native: OnnxRuntimeBackend) -> None:
    """What is bound to a state's memory is bound anew when that moves, and when there is too much of it."""
    state = native.new_state(1, 64)
    rooms = len(next(iter(state.tensors.values())))
    read(native, state, tokens(1, 9), [9])
    want = read(native, native.select(state, np.array([0], np.int32)), tokens(1, 3), [3])
    native.resize(state, rooms + 1)
    got = read(native, state, tokens(1, 3), [0], rows=np.array([0], np.int32))
    assert np.array_equal(got, want)
    for length in range(1, 40):
        for positions in (1, 2):
            native.context(
                state,
                tokens(1, length),
                np.zeros(1, np.int32),
                np.zeros((1, positions), np.int32),
                rows=np.array([0], np.int32),
            )
    got = read(native, state, tokens(1, 3), [0], rows=np.array([0], np.int32))
    assert np.array_equal(got, want)


def test_a_state_of_somebody_elses_tensors(native: OnnxRuntimeBackend) -> None:
    """As a tool makes it that changes what the denoiser sees: in any order in memory, with nothing bound."""
    state, t = filled(native), np.full(ROWS, 0.5, np.float32)
    copies = {name: np.ascontiguousarray(tensor[:ROWS]) for name, tensor in state.tensors.items()}
    other = ContextState(state.capacity, state.lengths, copies)
    assert np.array_equal(native.denoise(other, block(ROWS), t), native.denoise(state, block(ROWS), t))


def test_heads_of_another_width_keep_the_bodies(bundles: Bundles) -> None:
    """Attention's operator takes heads of a multiple of eight."""
    with Bundle.open(bundles("tiny_c")) as bundle:
        assert bundle.config.head_dim % 8
        backend = load(bundle, LoadSettings())
    assert not isinstance(backend, InPlaceBackend)
    backend.close()
