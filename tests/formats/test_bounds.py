"""Files that are made to take long or much: bounded before they are read."""

import dataclasses
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.small_bundle import SMALL
from ttc.errors import BundleError, CheckpointError, TtcError
from ttc.formats.manifest import FileRecord, Manifest
from ttc.formats.shard import Shard
from ttc.formats.strictjson import Fields, parse_json
from ttc.model.config import ModelConfig

MIB = 2**20
TIMES = 20
FORMS: dict[str, Callable[[int], bytes]] = {
    "objects": lambda n: b"[" + b",".join([b"{}"] * (n // 3)) + b"]",
    "lists": lambda n: b"[" + b",".join([b"[]"] * (n // 3)) + b"]",
    "lists of one": lambda n: b"[" + b",".join([b"[0]"] * (n // 4)) + b"]",
    "objects of one": lambda n: b"[" + b",".join([b'{"a":1}'] * (n // 8)) + b"]",
    "short keys": lambda n: b"{" + b",".join(b'"%x":0' % i for i in range(n // 9)) + b"}",
    "numbers": lambda n: b"[" + b",".join([b"1.5"] * (n // 4)) + b"]",
    "large numbers": lambda n: b"[" + b",".join(b"%d" % (10**9 + i) for i in range(n // 11)) + b"]",
    "texts": lambda n: b"[" + b",".join(b'"%04x"' % (i % 65536) for i in range(n // 7)) + b"]",
    "one text": lambda n: b'["' + b"x" * n + b'"]',
    "nested": lambda n: b"[" * (n // 2) + b"]" * (n // 2),
}


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that Python had more than before, at most; what is refused counts until its refusal."""
    tracemalloc.start()
    try:
        work()
    except TtcError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("form", FORMS)
def test_json_takes_little_more_than_its_bytes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttc.formats.strictjson._ALLOWED_BYTES", 0)  # as if it were a large file
    raw = FORMS[form](MIB)
    assert peak_of(lambda: parse_json(raw, "x", BundleError)) <= TIMES * len(raw)


def test_a_small_file_may_hold_many_values() -> None:
    assert parse_json(FORMS["objects"](MIB // 4), "x", BundleError)


def test_a_real_manifest_is_far_from_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttc.formats.strictjson._ALLOWED_BYTES", 0)
    spec = SMALL.weights.map["stack"]
    names = [f"context_tower.layers.{i}.mixer.experts.up_proj.weight" for i in range(2000)]
    weights = dataclasses.replace(
        SMALL.weights, map={name: dataclasses.replace(spec, name=name) for name in names}
    )
    raw = dataclasses.replace(SMALL, weights=weights).to_json()
    assert len(Manifest.from_json(raw).weights.map) == 2000
    assert peak_of(lambda: Manifest.from_json(raw)) <= TIMES * len(raw)


def test_a_real_header_is_far_from_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttc.formats.strictjson._ALLOWED_BYTES", 0)
    header = {
        f"context_tower.layers.3.mixer.experts.{i}.up_proj.weight": {
            "dtype": "BF16",
            "shape": [2, 2],
            "data_offsets": [8 * i, 8 * i + 8],
        }
        for i in range(2000)
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16000))
    with Shard.open(path) as shard:
        assert len(shard.tensors) == 2000
    assert peak_of(lambda: Shard.open(path)) <= TIMES * len(text)


def test_a_manifest_of_many_short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttc.formats.strictjson._ALLOWED_BYTES", 0)
    files = {f"{i:x}": FileRecord("0" * 64, 1) for i in range(5000)}
    raw = dataclasses.replace(SMALL, files={**SMALL.files, **files}).to_json()
    assert peak_of(lambda: Manifest.from_json(raw)) <= TIMES * len(raw)


def test_many_eos_ids_are_refused_at_once() -> None:
    config = {"hybrid_override_pattern": "-", "hidden_size": 8, "vocab_size": 16, "layer_norm_epsilon": 1e-5}
    config |= {"intermediate_size": 4, "max_position_embeddings": 64, "torch_dtype": "float32"}
    began = time.process_time()
    with pytest.raises(CheckpointError, match="eos_token_id has 400000 ids; valid: up to 1024"):
        ModelConfig.from_hf(config | {"eos_token_id": list(range(400_000))})
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"1e999", "1e999 is not a number this file may hold"),
        (b"9" * 41, "numbers have at most 40 digits"),
        (b'["\\ud800"]', "holds half of a surrogate pair"),
        (b'{"\\udfff": 1}', "holds half of a surrogate pair"),
        (b"[" * 65 + b"]" * 65, "nested too deeply"),
    ],
)
def test_odd_values_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_json(raw, "x", BundleError)


def test_what_is_usual_passes() -> None:
    assert parse_json(b'["\\ud83d\\ude00", 1e308, -0.0]', "x", BundleError) == ["\U0001f600", 1e308, -0.0]
    fields = Fields(parse_json(b'{"a": 12345678901234567890}', "x", BundleError), "x", BundleError)
    assert fields.integer("a", high=10**20) == 12345678901234567890
