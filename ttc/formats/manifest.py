"""`bundle.json`: the manifest as frozen dataclasses, read strictly; its meaning is `ttc.formats.bundle`'s."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ttc.base.dtypes import array_dtype, array_shape
from ttc.base.names import COMPUTE_DTYPES
from ttc.errors import BundleError, DigestError
from ttc.formats.quantised.layouts import LAYOUTS, graph_dtypes
from ttc.formats.shard import Shard
from ttc.formats.strictjson import Fields, json_digest, parse_json, quoted

__all__ = [
    "FORMAT_NAME",
    "GRAPH_ROLES",
    "MANIFEST_FILE",
    "PLAIN_VERSION",
    "QUANTISED_VERSION",
    "REQUIRED_ROLES",
    "FileRecord",
    "Manifest",
    "ShardRecord",
    "WeightMap",
    "WeightSpec",
    "checked_path",
]

FORMAT_NAME = "ttc-bundle"
# Bundles that hold quantised weights have the second version, all others the first.
PLAIN_VERSION, QUANTISED_VERSION = 1, 2
MANIFEST_FILE = "bundle.json"
GRAPH_ROLES = ("context", "denoiser", "step", "advance")
REQUIRED_ROLES = ("context", "denoiser", "step")

_WEIGHT_DTYPES = (*COMPUTE_DTYPES, "float64")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST_KEY = "manifest_sha256"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of the bundle, its content in full."""

    sha256: str
    size_bytes: int

    @classmethod
    def take(cls, fields: Fields, name: str) -> "FileRecord":
        """Take the record of the file `name` out of the fields of a JSON object."""
        inner = fields.fields(name)
        record = cls(inner.string("sha256"), inner.integer("size_bytes"))
        inner.end()
        return record


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One referenced checkpoint file: what can be checked without reading 118 GiB."""

    header_sha256: str
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, shard: Shard) -> "ShardRecord":
        """Return the record of an open shard."""
        return cls(shard.header_digest, shard.size_bytes, shard.mtime_ns)


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One weight of the graphs, and what it is made of.

    Attributes:
        name: in the graphs, and the key in the manifest.
        tensors: the checkpoint tensors it is made of: those of one part, or of all parts one after another.
        stacked: whether it is made of parts along a new first axis.
        shape: in the graphs; counts numbers, also where two are stored in a byte.
        dtype: in the graphs.
        graphs: roles of the graphs that take it; the first is that of its tower.
        layout: how the tensors are quantised (`ttc.formats.quantised.layouts`); empty: not at all, and a part
            is one tensor.
        piece: what the graphs take of a quantised matrix: its "weight" (the codes), "weight_scale" or
            "weight_scale_2", of which a part is one tensor; empty: the decoded matrix, of which a part is all
            tensors of the layout.
    """

    name: str
    tensors: tuple[str, ...]
    stacked: bool
    shape: tuple[int, ...]
    dtype: str
    graphs: tuple[str, ...]
    layout: str = ""
    piece: str = ""

    @property
    def part_shape(self) -> tuple[int, ...]:
        """The shape of one of its parts."""
        return self.shape[1:] if self.stacked else self.shape

    @property
    def tensors_per_part(self) -> int:
        """How many tensors a part is made of."""
        return len(LAYOUTS[self.layout].pieces) if self.layout and not self.piece else 1

    @property
    def parts(self) -> list[tuple[str, ...]]:
        """The tensors of each of its parts."""
        count = self.tensors_per_part
        return [self.tensors[i : i + count] for i in range(0, len(self.tensors), count)]

    @property
    def array_dtype(self) -> str:
        """The dtype of an array that holds it."""
        return array_dtype(self.dtype)

    @property
    def array_shape(self) -> tuple[int, ...]:
        """The shape of an array that holds it: half as long as `shape` where two numbers are in a byte."""
        return array_shape(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class WeightMap:
    """All weights of the graphs.

    Attributes:
        mode: "packed" (initializers of the graphs; no root, no shards) or "reference".
        map: name → weight.
        root: the checkpoint's folder.
        shards: file name in it → what was seen of the file at export.
    """

    mode: str
    map: Mapping[str, WeightSpec]
    root: str | None = None
    shards: Mapping[str, ShardRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's `bundle.json`; `ttc.formats.bundle` says what its fields mean.

    The writer leaves `files` empty: committing fills it in. `ttc.model.bundle` checks what `model` says,
    since nothing here knows the model.
    """

    ttc_version: str
    created_by: Mapping[str, str]
    source: Mapping[str, str]
    model: Mapping[str, Any]
    compute_dtype: str
    graphs: Mapping[str, str]
    ops: Mapping[str, int]
    weights: WeightMap
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    @property
    def format_version(self) -> int:
        """The version of the format that this manifest needs."""
        quantised = any(spec.layout for spec in self.weights.map.values())
        return QUANTISED_VERSION if quantised else PLAIN_VERSION

    def to_json(self) -> bytes:
        """Return the bytes of `bundle.json`.

        Raises:
            BundleError: this manifest breaks a rule of the format.
        """
        _check_rules(self, MANIFEST_FILE)
        content: dict[str, Any] = {"format": FORMAT_NAME, "format_version": self.format_version}
        for item in dataclasses.fields(self):
            content[item.name] = _plain(getattr(self, item.name))
        content[_DIGEST_KEY] = json_digest(content)
        return json.dumps(content, indent=1, allow_nan=False).encode()

    @classmethod
    def from_json(cls, raw: bytes, where: str = MANIFEST_FILE) -> "Manifest":
        """Return the manifest in `raw`.

        Args:
            raw: the bytes of the file.
            where: what messages call it.

        Raises:
            DigestError: it was changed since it was written.
            BundleError: something is not as the format says; the key is named.
        """
        content = parse_json(raw, where, BundleError)
        fields = Fields(content, where, BundleError)
        if (name := fields.string("format")) != FORMAT_NAME:
            fields.refuse("format", name, repr(FORMAT_NAME))
        version = fields.integer("format_version")
        if version not in (PLAIN_VERSION, QUANTISED_VERSION):
            due = f"{PLAIN_VERSION} or {QUANTISED_VERSION} (export the checkpoint again with this ttc)"
            fields.refuse("format_version", version, due)
        digest = fields.string(_DIGEST_KEY)
        assert isinstance(content, dict)
        if digest != json_digest({key: value for key, value in content.items() if key != _DIGEST_KEY}):
            raise DigestError(
                f"{where}: changed since it was written (its {_DIGEST_KEY} does not match); export again"
            )
        manifest = cls(
            ttc_version=fields.string("ttc_version"),
            created_by=fields.each("created_by", Fields.string),
            source=fields.each("source", Fields.string),
            model=fields.each("model", Fields.take),
            compute_dtype=fields.string("compute_dtype"),
            graphs=fields.each("graphs", Fields.string),
            ops=fields.each("ops", Fields.integer),
            weights=_weight_map(fields.fields("weights")),
            files=fields.each("files", FileRecord.take),
        )
        fields.end()
        _check_rules(manifest, where)
        if version != manifest.format_version:
            raise BundleError(
                f"{where}: format_version is {version}, but its weights need {manifest.format_version}"
            )
        return manifest


def checked_path(name: str, where: str) -> PurePosixPath:
    """Return the relative path `name` of a file in a bundle.

    Raises:
        BundleError: it could lead out of the bundle, or is not in plain form.
    """
    path = PurePosixPath(name)
    plain = name.isprintable() and not set(name) & set("\\:") and str(path) == name and len(name) <= 1024
    if not plain or path.is_absolute() or not path.parts or ".." in path.parts:
        raise BundleError(f"{where}: {quoted(name)} is not a plain relative path inside the bundle")
    return path


def _shard_record(fields: Fields, name: str) -> ShardRecord:
    inner = fields.fields(name)
    record = ShardRecord(
        inner.string("header_sha256"), inner.integer("size_bytes"), inner.integer("mtime_ns", -(2**63))
    )
    inner.end()
    return record


def _weight_spec(fields: Fields, name: str) -> WeightSpec:
    inner = fields.fields(name)
    spec = WeightSpec(
        name=name,
        tensors=inner.strings("tensors"),
        stacked=inner.boolean("stacked"),
        shape=inner.integers("shape"),
        dtype=inner.string("dtype"),
        graphs=inner.strings("graphs"),
        layout=inner.optional_string("layout"),
        piece=inner.optional_string("piece"),
    )
    inner.end()
    return spec


def _weight_map(fields: Fields) -> WeightMap:
    root = fields.take("root")
    if root is not None and not isinstance(root, str):
        fields.refuse("root", root, "a path or null")
    weights = WeightMap(
        mode=fields.string("mode"),
        map=fields.each("map", _weight_spec),
        root=root,
        shards=fields.each("shards", _shard_record),
    )
    fields.end()
    return weights


def _check_rules(manifest: Manifest, where: str) -> None:
    """Raise `BundleError` where a rule of the format that is more than a type is broken."""

    def rule(holds: bool, message: str) -> None:
        if not holds:
            raise BundleError(f"{where}: {message}")

    rule(
        manifest.compute_dtype in COMPUTE_DTYPES,
        f"compute_dtype is {quoted(manifest.compute_dtype)}, one of {', '.join(COMPUTE_DTYPES)} is due",
    )
    for name, file in manifest.files.items():
        checked_path(name, where)
        rule(name != MANIFEST_FILE, f"files lists {MANIFEST_FILE} itself")
        rule(
            bool(_SHA256.fullmatch(file.sha256)),
            f"files: the sha256 of {quoted(name)} is {quoted(file.sha256)}",
        )
    for role in REQUIRED_ROLES:
        rule(role in manifest.graphs, f"graphs has no {role!r}")
    for role, name in manifest.graphs.items():
        rule(
            role in GRAPH_ROLES,
            f"graphs has the unknown role {quoted(role)}; known: {', '.join(GRAPH_ROLES)}",
        )
        rule(name in manifest.files, f"graphs: {quoted(name)} is not among the files")
    _check_weights(manifest, where)


def _check_weights(manifest: Manifest, where: str) -> None:
    weights = manifest.weights
    where = f"{where}: weights"
    if weights.mode == "reference":
        if weights.root is None or not Path(weights.root).is_absolute() or not weights.root.isprintable():
            raise BundleError(
                f"{where}: root is {quoted(weights.root)}, the absolute path of the checkpoint folder is due"
            )
        if not weights.shards:
            raise BundleError(f"{where}: mode is 'reference', but no shards are listed")
    elif weights.mode != "packed":
        raise BundleError(f"{where}: mode is {quoted(weights.mode)}, 'packed' or 'reference' is due")
    elif weights.root is not None or weights.shards:
        raise BundleError(f"{where}: mode is 'packed', so root must be null and shards empty")
    for name, shard in weights.shards.items():
        if len(checked_path(name, where).parts) != 1 or not _SHA256.fullmatch(shard.header_sha256):
            raise BundleError(
                f"{where}: shard {quoted(name)} is not a plain file name with a sha256 of its header"
            )
    for name, spec in weights.map.items():
        _check_quantised(spec, where)
        num_parts = spec.shape[0] if spec.stacked and spec.shape else 1
        if len(spec.tensors) != num_parts * spec.tensors_per_part:
            raise BundleError(
                f"{where}: {quoted(name)} of shape {quoted(spec.shape)} "
                f"cannot be made of {len(spec.tensors)} tensors"
            )
        if spec.stacked and not spec.shape:
            raise BundleError(f"{where}: {quoted(name)} is stacked, but has no axis")
        if not spec.piece and spec.dtype not in _WEIGHT_DTYPES:
            raise BundleError(
                f"{where}: {quoted(name)} has the dtype {quoted(spec.dtype)}, "
                f"one of {', '.join(_WEIGHT_DTYPES)} is due"
            )
        if not spec.graphs or not set(spec.graphs) <= set(manifest.graphs):
            raise BundleError(
                f"{where}: {quoted(name)} is taken by {quoted(spec.graphs)}, roles of graphs are due"
            )


def _check_quantised(spec: WeightSpec, where: str) -> None:
    """Raise `BundleError` where layout and piece of a weight are unknown, or do not go with its dtype."""
    if not spec.layout and not spec.piece:
        return
    layout = LAYOUTS.get(spec.layout)
    if layout is None or (spec.piece and spec.piece not in layout.graph_pieces):
        raise BundleError(
            f"{where}: {quoted(spec.name)} is piece {quoted(spec.piece)} of layout {quoted(spec.layout)}; "
            f"known layouts: {', '.join(LAYOUTS)}"
        )
    due = graph_dtypes(layout.format).get(spec.piece) or spec.dtype
    if spec.dtype != due or (not spec.piece and spec.dtype not in COMPUTE_DTYPES):
        raise BundleError(
            f"{where}: {quoted(spec.name)} has the dtype {quoted(spec.dtype)}, which "
            f"{spec.piece or 'a decoded matrix'} of layout {spec.layout} has not"
        )


def _plain(value: object) -> Any:
    """Return `value` made of dicts, lists and scalars only."""
    if isinstance(value, WeightSpec):  # its name is its key; a plain weight has no word of quantisation
        content = {key: _plain(item) for key, item in dataclasses.asdict(value).items() if key != "name"}
        return {key: item for key, item in content.items() if item or key not in ("layout", "piece")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
