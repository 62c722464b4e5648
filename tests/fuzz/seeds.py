"""What mutation starts from: a few good files of every kind, made of what the repository has."""

import dataclasses
import functools
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.small_bundle import SMALL
from ttc.formats.engines import EngineRecord, EnginesManifest, TensorRecord
from ttc.formats.manifest import FileRecord
from ttc.formats.strictjson import json_digest

__all__ = ["CORPUS", "engines_manifest", "seeds"]

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
GOLDEN = ROOT / "tests" / "golden"
MINIATURE = ROOT / "ttc" / "miniature"


def seeds(reader: str) -> list[bytes]:
    """Return the good files of a reader, then what was once found with it."""
    found = [*_SEEDS[reader]()]
    corpus = CORPUS / reader
    return found + [path.read_bytes() for path in sorted(corpus.iterdir())] if corpus.is_dir() else found


def engines_manifest() -> EnginesManifest:
    """Return a manifest of one engine in cut form."""
    tensor = TensorRecord("in_0", "tensor", "float32", ("B", 4), (1, 4), (2, 4), (8, 4))
    sizes = {"min": 1, "opt": 2, "max": 8}
    return EnginesManifest(
        ttc_version="0.1.0",
        backend="tensorrt-rtx",
        backend_version="1.7.1",
        form="cut",
        targets=("8.9",),
        compute_dtype="float32",
        profile={"name": "x", "batch": sizes, "block": sizes, "chunk": sizes, "capacity": sizes},
        baked=False,
        fixed_addresses=True,
        sources={"step": "0" * 64},
        kernels={"DiffusionStep": "1" * 64},
        engines={"step": EngineRecord("step", (tensor,), (tensor,), 3)},
        files={name: FileRecord("2" * 64, 2) for name in ("step.engine", "step.layers.json")},
    )


def _texts(*patterns: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern))]


@functools.cache
def _key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def _private() -> list[bytes]:
    return [
        _key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    ]


def _public() -> list[bytes]:
    return [
        _key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    ]


def _signature() -> list[bytes]:
    """Return the signature of what the reader of signatures puts beside it."""
    return [_key().sign(dataclasses.replace(engines_manifest(), engines={}, files={}).to_json())]


def _verification() -> list[bytes]:
    content: dict[str, object] = {
        "format": "ttc-verification",
        "format_version": 1,
        "ttc_version": "0.1.0",
        "manifest_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "bundle_sha256": "0" * 64,
        "backends": {
            "torch": {
                "passed": True,
                "device": "cpu",
                "computes_in": "float32",
                "version": "torch 2",
                "finished": "2026-01-01T00:00:00+00:00",
            }
        },
        "shards": {"model.safetensors": "3" * 64},
    }
    return [json.dumps(content | {"record_sha256": json_digest(content)}).encode()]


def _program() -> list[bytes]:
    content = {
        "buffers": {
            "x": {"role": "input", "dtype": "float32", "shape": ["B", 4]},
            "y": {"role": "between", "dtype": "float32", "shape": ["6*B", 4]},
            "z": {"role": "output", "dtype": "float32", "shape": ["B"]},
        },
        "steps": [
            {"kind": "engine", "name": "a", "inputs": ["x"], "outputs": ["y"], "attributes": {}},
            {"kind": "op", "name": "Scale", "inputs": ["y"], "outputs": ["z"], "attributes": {"k": 2.5}},
        ],
    }
    return [json.dumps(content).encode()]


def _shard() -> list[bytes]:
    header = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(32)]


def _graph() -> list[bytes]:
    import onnx

    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }'
    small = onnx.parser.parse_model(text)
    held = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y) '
        "<float[4] w = {1, 2, 3, 4}> { y = Mul (x, w) }"
    )
    outside = onnx.ModelProto.FromString(held.SerializeToString())
    tensor = outside.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    return [model.SerializeToString() for model in (small, held, outside)]


def _tasks() -> list[bytes]:
    lines = (ROOT / "benchmarks" / "problems" / "miniature.jsonl").read_bytes().splitlines()
    own = (
        {"prompt": "p", "answer": r"\d+", "check": "regex", "task": "t", "stop": ["\n"]},
        {"prompt": "p", "answer": '{"a": [1]}', "check": "json"},
    )
    return [b"\n".join([*lines[:3], *(json.dumps(each).encode() for each in own)])]


def _arrivals() -> list[bytes]:
    one = {"at_seconds": 0, "prompt_tokens": 5, "answer_tokens": 7}
    return ["\n".join(map(json.dumps, (one, one | {"mode": "ar", "owner": "o"}))).encode()]


def _requests() -> list[bytes]:
    bodies: tuple[dict[str, object], ...] = (
        {"prompt": "a", "max_tokens": 4, "temperature": 0.5, "stop": ["x"], "seed": 1, "stream": True},
        {"prompt": [[1, 2], [3]], "n": 2, "logprobs": 1, "mode": "ar", "top_k": 5, "top_p": 0.5},
        {"messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "json_object"}},
        {"prompt": "a", "structured_outputs": {"choice": ["a", "b"]}, "user": "u"},
    )
    return [json.dumps(body).encode() for body in bodies]


def _quantised(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [
        path.read_bytes() for name in names for path in sorted(GOLDEN.glob(f"quantised/**/{name}"))
    ]


_SEEDS: Mapping[str, Callable[[], list[bytes]]] = {
    "bundle.json": lambda: [SMALL.to_json()],
    "engines.json": lambda: [engines_manifest().to_json()],
    "program.json": _program,
    "layers.json": lambda: [
        b'{"Layers": [{"LayerType": "CAST", "Name": "node_1"}, {"LayerType": "CONSTANT", "Name": "c"}]}'
    ],
    "verification.json": _verification,
    "safetensors": _shard,
    "config.json": _texts("tests/golden/tiny_*/config.json", "ttc/miniature/config.json"),
    "hf_quant_config.json": _quantised("hf_quant_config.json"),
    "quantization_config": _quantised("config.json"),
    "model.safetensors.index.json": _texts("tests/golden/tiny_a/model.safetensors.index.json"),
    "tokenizer.json": lambda: [(MINIATURE / "tokenizer.json").read_bytes()],
    "onnx": _graph,
    "build_profile": _texts("profiles/presets/*.toml"),
    "machine": lambda: [
        b'name = "a"\nbytes_per_second = 1e9\nflops_per_second = 1e10\nmemory_bytes = 1e9\nsource = "b"\n'
    ],
    "serve_settings": lambda: [b'bundle = "b"\nport = 8000\ndrain_seconds = 3.5\nmode = "ar"\n'],
    "tasks": _tasks,
    "bench_report": _texts("benchmarks/results/miniature_bench.json"),
    "arrivals": _arrivals,
    "private_key": _private,
    "public_key": _public,
    "signature": _signature,
    "cache_entry": lambda: [
        json.dumps({"files": {"a.engine": "4" * 64}, "about": {"role": "step", "dtype": None}}).encode()
    ],
    "tokenizer_config.json": lambda: [
        b'{"chat_template": "{{ messages }}"}',
        b'{"chat_template": [{"name": "default", "template": "x"}]}',
    ],
    "request": _requests,
}
