"""A bundle: what `ttc export` writes and every backend reads. This page is the format.

A bundle is a folder of plain files (no symbolic links):

    bundle.json       the manifest, described below
    context.onnx      the context tower                      (role "context")
    denoiser.onnx     the denoiser tower                     (role "denoiser")
    step.onnx         one diffusion step                     (role "step")
    advance.onnx      moves the state by committed tokens    (role "advance", optional)
    *.onnx.data       external data of the graph *.onnx, whose packed weights are too large for it (optional)
    tokenizer.json    as it was in the checkpoint            (optional)
    chat_template.jinja   the checkpoint's template of chats (optional)
    engines/          what `ttc build` made of it, with a manifest of its own (optional, not part of `files`)
    verification.json the last verification (optional, not part of `files`; see `ttc.formats.verification`)
    *.json.sig        signatures of these two files (optional, `ttc.formats.signed_folder`)

`bundle.json` is UTF-8 JSON, one object with exactly these keys:

    format            "ttc-bundle"
    format_version    1, or 2 where weights have a layout; a reader refuses any other
    ttc_version       the version of ttc that wrote the bundle
    created_by        {package: version} that took part: torch, onnx, …
    source            {word: text} about the checkpoint: the name of its folder
    model             every field of `ttc.model.config.ModelConfig`
    compute_dtype     "float32" | "float16" | "bfloat16"
    graphs            {role: file}; context, denoiser and step must be there
    ops               {name: version} of the ops of domain `ttc` that the graphs use
    weights           see below
    files             {relative path: {sha256, size_bytes}}: every file but bundle.json, engines/ and
                      verification.json
    manifest_sha256   of the object without this key, keys sorted, no white space

    weights.mode      "packed": weights are initializers of the graphs, under the names of the map
                      "reference": weights are inputs of the graphs, bound at load from the checkpoint
    weights.map       {graph weight: {tensors, stacked, shape, dtype, graphs}}: the checkpoint tensors it is
                      made of (one, or when stacked those to stack along a new first axis), shape and dtype
                      in the graph, and which graphs take it. Where the tensors are quantised, two more keys:
                      layout, how (`ttc.formats.quantised.layouts`), and piece, which of a matrix's tensors
                      the graphs take as it is stored: weight, weight_scale or weight_scale_2. Without piece
                      they take the matrix decoded, and all tensors of the layout are listed for each part
    weights.root      absolute path of the checkpoint folder (reference), else null
    weights.shards    {file name in root: {header_sha256, size_bytes, mtime_ns}} (reference), else empty

Opening checks, before anything else is read: the manifest's own digest, types and rules; that every path
stays inside the bundle and is no link; the content of every listed file; and of every referenced shard the
header, size and modification time. The digests find accidents and mix-ups; where a bundle comes from only a
signature proves.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from ttc.base.files import OpenFile, read_bounded
from ttc.errors import BundleError
from ttc.formats.atomic_folder import BUNDLE
from ttc.formats.decoded import decode_weight, decoded_specs
from ttc.formats.graph_file import parse_graph
from ttc.formats.listed_files import compare, inside, verify
from ttc.formats.manifest import (
    MANIFEST_FILE,
    Manifest,
    WeightSpec,
)
from ttc.formats.shard import Array
from ttc.formats.signed_folder import check_signature, refuse_unlisted
from ttc.formats.strictjson import quoted
from ttc.formats.weight_readers import PartReader
from ttc.formats.weights import PackedWeights, ReferencedWeights

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["MAX_PARSED_BYTES", "BundleFolder", "graph_digest"]

# The released model's, every tensor of it named, has about two.
_MAX_MANIFEST_BYTES = 16 * 2**20
# Of a file that is parsed as a whole: protobuf takes less than 2 GiB.
MAX_PARSED_BYTES = 2**31
_TOKENIZER_FILE = "tokenizer.json"
_TEMPLATE_FILE = "chat_template.jinja"
_DATA_ENDING = ".onnx.data"


def graph_digest(graph_sha256: str, data_sha256: Sequence[str]) -> str:
    """Return the digest that engines record of the graph that they were built from.

    Args:
        graph_sha256: of the ONNX file.
        data_sha256: of the files with its external data, in the order in which its initializers name them.

    Returns:
        The ONNX file's own digest if it has no external data, else the sha256 of all of them as a JSON list.
    """
    if not data_sha256:
        return graph_sha256
    return hashlib.sha256(json.dumps([graph_sha256, *data_sha256]).encode()).hexdigest()


class BundleFolder:
    """An open, verified bundle. Reading is thread-safe.

    Attributes:
        path: of the folder.
        manifest: its bundle.json.
        manifest_sha256: digest of the bytes of bundle.json as they were read.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        manifest_sha256: str,
        data: Mapping[str, OpenFile],
        checkpoint_root: Path | None,
    ) -> None:
        self.path = path
        self.manifest, self.manifest_sha256 = manifest, manifest_sha256
        self._data = data
        where = str(path / MANIFEST_FILE)
        self._weights: PackedWeights | ReferencedWeights
        if manifest.weights.mode == "packed":
            graphs = {role: path / name for role, name in manifest.graphs.items()}
            self._weights = PackedWeights(graphs, self.read_graph, data)
        else:
            self._weights = ReferencedWeights(manifest.weights, checkpoint_root, where)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        checkpoint_root: str | os.PathLike[str] | None = None,
        trust: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Verify the bundle in the folder `path` and open it.

        Args:
            path: the folder.
            checkpoint_root: where the referenced checkpoint lies now, if not where it lay at export. Copying
                changes modification times, so with it only sizes and headers of the shards are compared.
            trust: PEM file of the public key that must have signed it, in which case it holds no unlisted
                file; None: any.

        Raises:
            DigestError: a file was changed, or the signature is missing or wrong.
            BundleError: it is no bundle, or a file is missing or not as the format says.
        """
        try:
            return cls._open(Path(path), None if checkpoint_root is None else Path(checkpoint_root), trust)
        except OSError as fault:
            raise BundleError(f"{path}: cannot be read ({fault.strerror})") from None

    @classmethod
    def _open(cls, folder: Path, checkpoint_root: Path | None, trust: str | os.PathLike[str] | None) -> Self:
        if not folder.is_dir():
            raise BundleError(
                f"{folder}: no such folder; a bundle is a folder with {MANIFEST_FILE}, made by `ttc export`; "
                "`miniature` is the one that comes with ttc"
            )
        if not os.path.lexists(folder / MANIFEST_FILE):
            raise BundleError(
                f"{folder / MANIFEST_FILE}: missing; this folder is not a bundle made by `ttc export`"
            )
        manifest_file = inside(folder, MANIFEST_FILE, str(folder))
        raw = read_bounded(manifest_file, _MAX_MANIFEST_BYTES, BundleError, links=False)
        how = f"this bundle is not signed; sign it with `ttc sign {folder} --key KEY`"
        check_signature(raw, manifest_file, trust, how)
        manifest = Manifest.from_json(raw, str(manifest_file))
        if trust is not None:
            refuse_unlisted(folder, manifest.files, BUNDLE)
        if manifest.weights.mode == "packed" and checkpoint_root is not None:
            raise BundleError(
                f"{folder}: its weights are packed, there is no checkpoint to find in {checkpoint_root}"
            )
        data: dict[str, OpenFile] = {}
        try:
            for name, record in manifest.files.items():
                with contextlib.ExitStack() as opened:
                    file = opened.enter_context(
                        OpenFile(inside(folder, name, str(manifest_file)), BundleError, links=False)
                    )
                    verify(file, record)
                    if name.endswith(_DATA_ENDING):
                        data[name] = file
                        opened.pop_all()
            return cls(folder, manifest, hashlib.sha256(raw).hexdigest(), data, checkpoint_root)
        except BaseException:
            _close(data)
            raise

    @property
    def compute_dtype(self) -> str:
        """One of "float32", "float16" and "bfloat16"."""
        return self.manifest.compute_dtype

    @property
    def weights(self) -> Mapping[str, WeightSpec]:
        """Name → weight of the graphs."""
        return MappingProxyType(dict(self.manifest.weights.map))

    @property
    def weights_mode(self) -> str:
        """Either "packed" or "reference"."""
        return self.manifest.weights.mode

    @property
    def tokenizer_path(self) -> Path | None:
        """Path of tokenizer.json, None where the bundle has none."""
        return self.path / _TOKENIZER_FILE if _TOKENIZER_FILE in self.manifest.files else None

    def graph_path(self, role: str) -> Path:
        """Return the ONNX file of `role`, one of `GRAPH_ROLES`; raise `BundleError` where there is none."""
        return self.path / self._graph_file(role)

    def graph_digest(self, role: str) -> str:
        """Return what engines built from the graph of `role` must have recorded (`graph_digest`)."""
        files, name = self.manifest.files, self._graph_file(role)
        data = files.get(f"{name}.data")
        return graph_digest(files[name].sha256, () if data is None else (data.sha256,))

    def read_file(self, name: str) -> bytes:
        """Return one of the manifest's files, verified once more as it is read.

        So what is returned is what was exported, whatever happened to the file since the bundle was opened.

        Raises:
            DigestError: it was changed.
            BundleError: it cannot be read.
        """
        path = inside(self.path, name, str(self.path / MANIFEST_FILE))
        record = self.manifest.files[name]
        raw = read_bounded(path, MAX_PARSED_BYTES, BundleError, links=False)
        compare(path, record, len(raw), hashlib.sha256(raw).hexdigest())
        return raw

    def read_graph(self, role: str) -> "onnx_ir.Model":
        """Return the graph of `role`, parsed from verified bytes.

        Raises:
            DigestError: the file was changed since the bundle was opened.
            BundleError: there is none, or it is no graph that can be read.
        """
        path = self.graph_path(role)
        return parse_graph(self.read_file(path.name), path, self._data)

    def read_tokenizer(self) -> bytes | None:
        """Return the content of tokenizer.json, None where the bundle has none."""
        return self.read_file(_TOKENIZER_FILE) if _TOKENIZER_FILE in self.manifest.files else None

    def read_chat_template(self) -> str | None:
        """Return the Jinja text of the chat template, None where the bundle has none."""
        if _TEMPLATE_FILE not in self.manifest.files:
            return None
        try:
            return self.read_file(_TEMPLATE_FILE).decode()
        except UnicodeDecodeError as fault:
            raise BundleError(
                f"{self.path / _TEMPLATE_FILE}: not UTF-8 text (byte {fault.start}); export again"
            ) from None

    def read_weight(self, name: str) -> Array:
        """Return the weight `name` in the graph's shape and dtype: aligned, C-contiguous, read-only.

        Of four-bit weights it is the bytes, uint8, two numbers in each and the last axis half as long.

        By reference it is read from the checkpoint's files into an array of its own, which the caller may
        drop. Packed weights come from the graph file, which stays in memory after the first.

        Raises:
            NumericsError: a value is too large for the dtype.
            BundleError: there is no such weight, or a graph file does not hold it.
        """
        return self._weights.read(self._spec(name))

    def weight_parts(self, name: str) -> Iterator[Array]:
        """Yield the weight `name` piece by piece along its first axis, for a reader with memory of its own.

        A stacked weight comes expert by expert and without that axis, so that by reference the stack is never
        made on the host; any other is one piece. Otherwise as `read_weight`.
        """
        return self._weights.parts(self._spec(name))

    def weight_readers(self, name: str) -> Iterator[PartReader]:
        """Yield what reads the pieces of `weight_parts`, for a caller that has the memory already.

        Raises:
            BundleError: there is no such weight, or a graph file does not hold it.
        """
        return self._weights.readers(self._spec(name))

    @property
    def decoded_weights(self) -> dict[str, WeightSpec]:
        """Name → weight as graphs would take it that know no quantised weights, in the compute dtype."""
        return decoded_specs(self.manifest.weights.map, self.compute_dtype)

    def read_decoded(self, name: str, dtype: str | None = None) -> Array:
        """Return one of `decoded_weights`, experts decoded to `dtype`, else to the compute dtype.

        A weight that is stored plain is returned as `read_weight` does, in the graph's dtype.

        Raises:
            NumericsError: a value is NaN, infinite, or too large for the dtype.
            BundleError: as `read_weight`.
        """
        spec = self._spec(name)
        if not spec.piece:
            return self.read_weight(name)
        specs = self.manifest.weights.map
        return decode_weight(spec, specs, self.weight_parts, dtype or self.compute_dtype)

    def _graph_file(self, role: str) -> str:
        if role not in self.manifest.graphs:
            known = ", ".join(self.manifest.graphs)
            raise BundleError(f"{self.path}: no graph for the role {quoted(role)}; it has: {known}")
        return self.manifest.graphs[role]

    def _spec(self, name: str) -> WeightSpec:
        spec = self.manifest.weights.map.get(name)
        if spec is None:
            raise BundleError(
                f"{self.path}: no weight {quoted(name)} among its {len(self.manifest.weights.map)}"
            )
        return spec

    def describe(self) -> dict[str, Any]:
        """Return what `ttc inspect` shows, ready for JSON."""
        manifest, weights = self.manifest, self.manifest.weights
        return {
            "kind": "bundle",
            "path": str(self.path),
            "format_version": manifest.format_version,
            "ttc_version": manifest.ttc_version,
            "created_by": dict(manifest.created_by),
            "source": dict(manifest.source),
            "model": dict(manifest.model),
            "compute_dtype": manifest.compute_dtype,
            "graphs": dict(manifest.graphs),
            "ops": dict(manifest.ops),
            "files": {
                name: {"size_bytes": file.size_bytes, "sha256": file.sha256}
                for name, file in manifest.files.items()
            },
            "weights": {
                "mode": weights.mode,
                "count": len(weights.map),
                "tensors": sum(len(spec.tensors) for spec in weights.map.values()),
                "root": str(self._weights.root) if isinstance(self._weights, ReferencedWeights) else None,
                "shards": len(weights.shards),
                "shard_bytes": sum(shard.size_bytes for shard in weights.shards.values()),
            },
        }

    def close(self) -> None:
        """Close files and forget parsed graphs; arrays already read stay valid."""
        self._weights.close()
        _close(self._data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(files: Mapping[str, OpenFile]) -> None:
    for file in files.values():
        file.close()
