"""`Shard`: agrees with the safetensors library on good files, names what is wrong with bad ones, raises
nothing else.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ttc.base.dtypes import numpy_dtype
from ttc.errors import BundleError, CheckpointError
from ttc.formats.shard import Shard, TensorInfo

GOLDEN = Path(__file__).parents[1] / "golden"


def raw_file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"a": entry("F32", [2, 3], 0, 24), "b": entry("BF16", [4], 24, 32), "__metadata__": {"format": "pt"}}
GOOD_DATA = np.arange(6, dtype=np.float32).tobytes() + np.arange(4).astype(ml_dtypes.bfloat16).tobytes()


def test_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_file(GOOD, GOOD_DATA))
    header = len(json.dumps(GOOD))
    with Shard.open(path) as shard:
        assert shard.tensors == {
            "a": TensorInfo("float32", (2, 3), 8 + header, 32 + header),
            "b": TensorInfo("bfloat16", (4,), 32 + header, 40 + header),
        }
        assert shard.size_bytes == path.stat().st_size
        assert shard.mtime_ns == path.stat().st_mtime_ns
        a, b = shard.read("a"), shard.read("b")
        with pytest.raises(CheckpointError, match=r"x.safetensors: no tensor 'c' among its 2"):
            shard.read("c")
    assert not a.flags.writeable
    assert not a.flags.owndata
    # Arrays outlive the shard.
    np.testing.assert_array_equal(a, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert b.dtype == numpy_dtype("bfloat16")
    assert b.tolist() == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(CheckpointError, match="closed"):
        shard.read("a")


ARRAYS: dict[str, Any] = {
    "f64": np.array([1.5, -2.5]),
    "f32": np.ones((2, 0, 3), np.float32),
    "f16": np.array([[1, 2], [3, 4]], np.float16),
    "bf16": np.array([[1, 2, 3]]).astype(ml_dtypes.bfloat16),
    "i64": np.array([2**62, -1], np.int64),
    "i32": np.array([[[7]]], np.int32),
    "i16": np.array([5], np.int16),
    "i8": np.array([-5, 4, 3], np.int8),
    "u8": np.array([1, 2, 255], np.uint8),
    "bool": np.array([True, False, True]),
    "scalar": np.array(3.25, np.float32),
}


def test_agrees_with_the_library(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path, metadata={"made": "here"})
    with Shard.open(path) as shard, safetensors.safe_open(path, "np") as library:
        assert set(shard.tensors) == set(library.keys()) == set(ARRAYS)
        for name in ARRAYS:
            found = shard.read(name)
            assert (found.dtype, found.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)
            assert shard.info(name).dtype == ARRAYS[name].dtype.name
            np.testing.assert_array_equal(found, library.get_tensor(name))


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/*.safetensors")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_golden_files(path: Path) -> None:
    with Shard.open(path) as shard, safetensors.safe_open(path, "np") as library:
        assert set(shard.tensors) == set(library.keys())
        for name in shard.tensors:
            if not shard.info(name).dtype.startswith("float8"):  # which the library has no numpy dtype for
                assert shard.read(name).tobytes() == library.get_tensor(name).tobytes()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes are no .safetensors file"),
    "seven bytes": (b"1234567", "7 bytes are no"),
    "absurd header": (struct.pack("<Q", 2**63) + b"{}", "claims 9223372036854775808 bytes, more than"),
    "header over the limit": (struct.pack("<Q", 2**24 + 1) + b"{}", "claims 16777217 bytes, more than"),
    "header longer than the file": (struct.pack("<Q", 3) + b"{}", "claims 3 bytes, but only 2 follow"),
    "text": (b"version https://git-lfs.github.com/spec/v1\noid", "claims"),
    "no object": (raw_file([]), "no JSON object"),
    "not json": (raw_file(b"{'a'}"), "not valid JSON"),
    "not text": (raw_file(b"{\xff}"), "not UTF-8"),
    "twice": (raw_file(b'{"a":{},"a":{}}'), "'a' stands there twice"),
    "metadata": (raw_file({"__metadata__": {"a": 1}}), "__metadata__"),
    "entry": (raw_file({"a": 1}), "tensor 'a': a JSON object is due"),
    "extra key": (raw_file({"a": entry("U8", [1], 0, 1) | {"x": 1}}, b"1"), "unknown key.*'x'"),
    "missing key": (raw_file({"a": {"dtype": "U8", "shape": [1]}}, b"1"), "'data_offsets' is missing"),
    "dtype": (raw_file({"a": entry("F4", [1], 0, 1)}, b"1"), "tensor 'a': 'dtype' is 'F4', one of BOOL"),
    "dtype type": (raw_file({"a": entry(3, [1], 0, 1)}, b"1"), "'dtype' is 3"),
    "negative length": (raw_file({"a": entry("U8", [-1], 0, 1)}, b"1"), r"'shape' is \[-1\]"),
    "bool length": (raw_file({"a": entry("U8", [True], 0, 1)}, b"1"), r"'shape' is \[True\]"),
    "float length": (raw_file({"a": entry("U8", [1.0], 0, 1)}, b"1"), r"'shape' is \[1.0\]"),
    "overflowing shape": (
        raw_file({"a": entry("F32", [2**32, 2**32], 0, 0)}),
        "'shape' is .*2\\*\\*62 bytes is due",
    ),
    "overflowing empty": (raw_file({"a": entry("F32", [0, 2**62], 0, 0)}), "2\\*\\*62 bytes is due"),
    "many dimensions": (raw_file({"a": entry("U8", [1] * 100, 0, 1)}, b"1"), "at most 32 dimensions"),
    "offsets reversed": (raw_file({"a": entry("U8", [1], 1, 0)}, b"1"), "begin ≤ end"),
    "offsets negative": (raw_file({"a": entry("U8", [1], -1, 0)}, b"1"), "'data_offsets' is"),
    "one offset": (raw_file({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, b"1"), "begin, end"),
    "outside": (raw_file({"a": entry("U8", [9], 0, 9)}, b"1"), "tensor 'a' ends at byte 9 .* holds 1"),
    "wrong size": (
        raw_file({"a": entry("F32", [1], 0, 3)}, b"123"),
        "'a' of shape .* takes 4 bytes, its offsets say 3",
    ),
    "overlap": (
        raw_file({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, b"123"),
        "tensor 'b' starts at byte 1 of the data and overlaps tensor 'a', which ends at 2",
    ),
    "hole": (
        raw_file({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, b"123"),
        "tensor 'b' .* leaves a hole after tensor 'a'",
    ),
    "hole at the start": (raw_file({"a": entry("U8", [1], 1, 2)}, b"12"), "leaves a hole after the start"),
    "too long": (
        raw_file({"a": entry("U8", [1], 0, 1)}, b"123"),
        "2 bytes after tensor 'a' that belong to no tensor",
    ),
}


@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_hostile_files_are_refused(case: str, tmp_path: Path) -> None:
    raw, message = HOSTILE[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=message) as caught:
        Shard.open(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match=message):
        Shard.open(path, error=BundleError)


def test_absurd_header_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**40))
        file.truncate(2**41)
    with pytest.raises(CheckpointError, match="more than the 16777216"):
        Shard.open(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "regular file"),
        (tmp_path / "pipe", "regular file"),
        (tmp_path / "none", "missing"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Shard.open(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Shard.open("a\0b")


def test_a_tensor_of_a_huge_file_is_read_alone(tmp_path: Path) -> None:
    length = 2**40
    path = tmp_path / "huge.safetensors"
    huge, small = entry("BF16", [2**19, 2**20], 0, length), entry("BF16", [2], length, length + 4)
    header = json.dumps({"a": huge, "b": small}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + length + 4)
    with Shard.open(path) as shard:
        assert shard.read("b").tolist() == [0.0, 0.0]
        with pytest.raises(CheckpointError, match="'a' takes 1099511627776 bytes, more memory than there is"):
            shard.read("a")


def test_header_digest_sees_the_header_only(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    paths[0].write_bytes(raw_file(GOOD, GOOD_DATA))
    paths[1].write_bytes(raw_file(GOOD, bytes(len(GOOD_DATA))))
    paths[2].write_bytes(raw_file(GOOD | {"__metadata__": {}}, GOOD_DATA))
    first, second, third = (Shard.open(path).header_digest for path in paths)
    assert first == second != third


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_read_or_raise_checkpoint_error(data: st.DataObject, tmp_path: Path) -> None:
    raw = bytearray(raw_file(GOOD, GOOD_DATA))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "remove"]))
        if kind == "flip":
            raw[position] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            raw[position] = data.draw(st.sampled_from(b'0123456789"{}[],:-eE.\\nul \xff'))
        elif kind == "cut":
            del raw[max(position, 1) :]
        elif kind == "insert":
            raw[position:position] = data.draw(st.binary(min_size=1, max_size=4))
        elif len(raw) > 1:
            del raw[position]
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(raw)
    try:
        with Shard.open(path) as shard:
            for name, info in shard.tensors.items():
                assert shard.read(name).nbytes == info.nbytes
                assert 8 <= info.begin <= info.end <= len(raw)
    except CheckpointError:
        return


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["U8", "F32", "BF16", "Q"]),
                "shape": st.lists(st.integers(0, 3) | st.integers(), max_size=3),
                "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2),
            }
        ),
        max_size=3,
    ),
    data=st.binary(max_size=16),
)
def test_invented_headers_agree_with_the_library(header: dict[str, Any], data: bytes, tmp_path: Path) -> None:
    """What passes here, the library reads too, with the same result."""
    path = tmp_path / "invented.safetensors"
    path.write_bytes(raw_file(header, data))
    try:
        shard = Shard.open(path)
    except CheckpointError:
        return
    with safetensors.safe_open(path, "np") as library:
        for name in shard.tensors:
            assert shard.read(name).tobytes() == library.get_tensor(name).tobytes()
