"""Strict JSON: what is refused, in which words, and that nothing but the given error ever comes out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.errors import BundleError, CheckpointError
from ttc.formats.strictjson import Fields, parse_json, quoted, read_json


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands there twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "numbers have at most 40 digits"),
    ],
)
def test_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=f"somewhere: .*{message}"):
        parse_json(raw, "somewhere", BundleError)


def test_infinity_where_it_is_allowed() -> None:
    assert parse_json(b"[0.0, Infinity]", "x", BundleError, allow_infinity=True) == [0.0, float("inf")]


@given(st.binary(max_size=64))
def test_any_bytes(raw: bytes) -> None:
    try:
        parse_json(raw, "x", CheckpointError)
    except CheckpointError:
        return


def test_file_is_bounded_and_regular(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"[1, 2]")
    assert read_json(path, 6, BundleError) == [1, 2]
    with pytest.raises(BundleError, match="6 bytes, more than the 5"):
        read_json(path, 5, BundleError)
    with pytest.raises(BundleError, match="not a regular file"):
        read_json(tmp_path, 5, BundleError)
    with pytest.raises(BundleError, match="No such file"):
        read_json(tmp_path / "y.json", 5, BundleError)


def test_fields_name_the_place_the_key_and_the_value() -> None:
    fields = Fields({"a": True, "b": [1, -1], "c": "", "d": {}}, "place", BundleError)
    with pytest.raises(BundleError, match="place: 'a' is True, an integer from 0 to 9 is due"):
        fields.integer("a", 0, 9)
    with pytest.raises(BundleError, match=r"place: 'b' is \[1, -1\]"):
        fields.integers("b")
    with pytest.raises(BundleError, match="place: 'c' is ''"):
        fields.string("c")
    with pytest.raises(BundleError, match="place: the key 'e' is missing"):
        fields.boolean("e")
    with pytest.raises(BundleError, match=r"place: 1 unknown key\(s\): 'd'"):
        fields.end()


def test_shown_is_one_short_line() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 10**6, "a\nb\ud800", deep, list(range(10**5)), {"k": "v" * 1000}):
        assert len(quoted(value)) < 400
        assert quoted(value).isprintable()
