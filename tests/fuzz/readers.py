"""Every reader of files that others may have made, as a function of a file's bytes.

A reader gets the bytes and an empty folder, and does what a command does with such a file, down to the rows
it would print. It may return, or raise one `TtcError`; anything else is a finding.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.fuzz.seeds import engines_manifest, seeds
from ttc.bench.compare import compare
from ttc.bench.problems import load_problems
from ttc.bench.schema import read_report
from ttc.bench.tables import compare_rows, run_rows
from ttc.commands.inspect import _SECTIONS
from ttc.errors import BundleError, DigestError
from ttc.exporter.engines.cache import EngineCache
from ttc.exporter.onnx.chat_template import chat_template
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.engines import MANIFEST_FILE, SIGNATURE_FILE, EngineFolder, EnginesManifest
from ttc.formats.graph_file import parse_graph
from ttc.formats.manifest import FileRecord, Manifest
from ttc.formats.quant_config.files import read_scheme
from ttc.formats.shard import Shard
from ttc.formats.signing import sign, verify
from ttc.formats.tokenizer import encoded, open_tokenizer
from ttc.formats.verification import Verification
from ttc.inspection import describe
from ttc.inspection.engines import describe_engines, describe_program
from ttc.model.config import ModelConfig
from ttc.planning.machines import load_machine
from ttc.planning.models import load_config
from ttc.planning.simulation.arrivals import read_trace
from ttc.profiles.build_profile import load_build_profile
from ttc.runtime.structured_fields import STRUCTURED_FIELDS, structured_options
from ttc.serving.service.settings import read_settings
from ttc.serving.wire.fields import Defaults, read_chat, read_completion, read_object

__all__ = ["READERS", "Reader"]

Reader = Callable[[bytes, Path], None]
ROOT = Path(__file__).parents[2]
_NO_LAYERS = b'{"Layers": []}'


def _file(raw: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def manifest(raw: bytes, folder: Path) -> None:
    """bundle.json."""
    found = Manifest.from_json(raw)
    ModelConfig.from_dict(dict(found.model))
    assert Manifest.from_json(found.to_json()) == found


def engines(raw: bytes, folder: Path) -> None:
    """engines.json, with the files that it lists."""
    found = EnginesManifest.from_json(raw, MANIFEST_FILE)
    files = {}
    for name in found.files:
        path = folder / name
        path.write_bytes(_NO_LAYERS)
        files[name] = FileRecord(hashlib.sha256(_NO_LAYERS).hexdigest(), len(_NO_LAYERS))
    _file(dataclasses.replace(found, files=files, programs={}).to_json(), folder, MANIFEST_FILE)
    tuple(_SECTIONS["engines"](describe_engines(folder)))


def program(raw: bytes, folder: Path) -> None:
    """A .program.json file."""
    tuple(_SECTIONS["program"](describe_program(_file(raw, folder, "x.program.json"))))


def layers(raw: bytes, folder: Path) -> None:
    """A .layers.json file, as a set of engines lists it."""
    record = FileRecord(hashlib.sha256(raw).hexdigest(), len(raw))
    _file(raw, folder, "x.layers.json")
    manifest = dataclasses.replace(engines_manifest(), files={"x.layers.json": record})
    EngineFolder(folder, manifest, "").layers("x")


def verification(raw: bytes, folder: Path) -> None:
    """verification.json."""
    _file(raw, folder, "verification.json")
    Verification.read(folder, hashlib.sha256(b"{}").hexdigest(), None)


def shard(raw: bytes, folder: Path) -> None:
    """A .safetensors file."""
    with Shard.open(_file(raw, folder, "x.safetensors")) as opened:
        for name in opened.tensors:
            opened.read(name)
    tuple(_SECTIONS["safetensors"](describe(folder / "x.safetensors")))


def config(raw: bytes, folder: Path) -> None:
    """config.json, of a checkpoint and as `ttc plan` reads it."""
    _file(raw, folder, "config.json")
    load_config(folder)


def quantisation(raw: bytes, folder: Path) -> None:
    """hf_quant_config.json, beside a plain config.json."""
    _file(b"{}", folder, "config.json")
    scheme = read_scheme(_file(raw, folder, "hf_quant_config.json").parent)
    if scheme is not None:
        scheme.excluded.match(("backbone.layers.0.mixer.gate",))


def quantisation_in_config(raw: bytes, folder: Path) -> None:
    """The object quantization_config of a config.json."""
    read_scheme(_file(raw, folder, "config.json").parent)


def index(raw: bytes, folder: Path) -> None:
    """model.safetensors.index.json of a checkpoint whose other files are right."""
    for name in ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        shutil.copy(ROOT / "tests" / "golden" / "tiny_a" / name, folder)
    _file(raw, folder, "model.safetensors.index.json")
    with Checkpoint.open(folder):
        pass


def tokenizer(raw: bytes, folder: Path) -> None:
    """tokenizer.json."""
    opened = open_tokenizer(raw, "tokenizer.json", BundleError)
    opened.get_vocab_size()
    encoded(opened, "Question: what is 2 + 2?")


def graph(raw: bytes, folder: Path) -> None:
    """An ONNX file, as a bundle's and as one of its own."""
    model = parse_graph(raw, _file(raw, folder, "x.onnx"), {})
    del model
    tuple(_SECTIONS["onnx"](describe(folder / "x.onnx")))


def build_profile(raw: bytes, folder: Path) -> None:
    """A build profile."""
    found = load_build_profile(_file(raw, folder, "x.toml"))
    tuple(_SECTIONS["profile"]({"profile": found.to_dict()}))


def machine(raw: bytes, folder: Path) -> None:
    """A machine of `ttc plan --gpu`."""
    load_machine(str(_file(raw, folder, "x.toml")))


def service(raw: bytes, folder: Path) -> None:
    """Settings of `ttc serve`."""
    read_settings({}, _file(raw, folder, "x.toml"), {})


def tasks(raw: bytes, folder: Path) -> None:
    """A task file of `ttc bench`."""
    load_problems(_file(raw, folder, "x.jsonl"))


def report(raw: bytes, folder: Path) -> None:
    """A report of `ttc bench`, compared with itself."""
    found = read_report(_file(raw, folder, "x.json"))
    json.dumps(found.to_dict(), allow_nan=False)
    compare_rows(compare(found, found))
    run_rows(("a", "b"), (found, found))


def arrivals(raw: bytes, folder: Path) -> None:
    """A trace of `ttc plan serve`."""
    read_trace(_file(raw, folder, "x.jsonl"), "diffusion", 0)


def private_key(raw: bytes, folder: Path) -> None:
    """The key of `--sign`."""
    sign(b"manifest", _file(raw, folder, "x.pem"))


def public_key(raw: bytes, folder: Path) -> None:
    """The key of `--trust`."""
    with contextlib.suppress(DigestError):
        verify(b"manifest", bytes(64), _file(raw, folder, "x.pem"), "x")


def signature(raw: bytes, folder: Path) -> None:
    """engines.json.sig."""
    made = dataclasses.replace(engines_manifest(), engines={}, files={})
    signed = folder / "engines"
    signed.mkdir()
    _file(made.to_json(), signed, MANIFEST_FILE)
    _file(raw, signed, SIGNATURE_FILE)
    EngineFolder.open(signed, _file(seeds("public_key")[0], folder, "key.pem"))


def cache_entry(raw: bytes, folder: Path) -> None:
    """entry.json of the cache of engines: whatever is odd is a miss."""
    key = "0" * 64
    EngineCache(folder / "cache").put(key, {"a.engine": _file(b"x", folder, "a")}, {})
    _file(raw, folder / "cache" / key, "entry.json")
    EngineCache(folder / "cache").entries()
    (taken := folder / "taken").mkdir(exist_ok=True)
    EngineCache(folder / "cache").take(key, taken)
    for path in taken.iterdir():
        path.unlink()


def template(raw: bytes, folder: Path) -> None:
    """tokenizer_config.json, which may hold a template of chats."""
    _file(raw, folder, "tokenizer_config.json")
    chat_template(folder)


def request(raw: bytes, folder: Path) -> None:
    """The body of a request for text."""
    read = read_chat if "messages" in read_object(raw) else read_completion
    structured_options({name: value for name, value in read_object(raw).items() if name in STRUCTURED_FIELDS})
    read(raw, Defaults())


READERS: Mapping[str, Reader] = {
    "bundle.json": manifest,
    "engines.json": engines,
    "program.json": program,
    "layers.json": layers,
    "verification.json": verification,
    "safetensors": shard,
    "config.json": config,
    "hf_quant_config.json": quantisation,
    "quantization_config": quantisation_in_config,
    "model.safetensors.index.json": index,
    "tokenizer.json": tokenizer,
    "onnx": graph,
    "build_profile": build_profile,
    "machine": machine,
    "serve_settings": service,
    "tasks": tasks,
    "bench_report": report,
    "arrivals": arrivals,
    "private_key": private_key,
    "public_key": public_key,
    "signature": signature,
    "cache_entry": cache_entry,
    "tokenizer_config.json": template,
    "request": request,
}
