"""Checkpoint → bundle."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir

from ttc import __version__
from ttc.base.distribution import install
from ttc.base.files import read_bounded
from ttc.base.names import COMPUTE_DTYPES
from ttc.errors import CheckpointError, InputError, MissingDependencyError
from ttc.exporter.onnx.chat_template import chat_template
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.exporter.passes import pipeline, run_passes
from ttc.formats.atomic_folder import BUNDLE, bundle_writer
from ttc.formats.manifest import GRAPH_ROLES, Manifest, ShardRecord, WeightMap
from ttc.formats.shipped import find_checkpoint
from ttc.formats.signed_folder import signer
from ttc.formats.tokenizer import MAX_TOKENIZER_BYTES
from ttc.formats.weights import ReferencedWeights
from ttc.model.config import LayerKind
from ttc.model.weights import in_dtype
from ttc.plugins.ops import DOMAIN, DOMAIN_VERSION
from ttc.plugins.table import OPS

if TYPE_CHECKING:
    from ttc.exporter.onnx.graphs import GraphMaker
__all__ = ["PACK_LIMIT_BYTES", "export"]

# Checkpoints up to this size are packed unless asked otherwise.
PACK_LIMIT_BYTES: Final = 2**30
# Protobuf files end at 2 GiB; packed graphs with more weights than this keep them beside the file.
EXTERNAL_DATA_BYTES: Final = 2**30


def export(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    dtype: str | None = None,
    force: bool = False,
    *,
    pack: bool | None = None,
    sign: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Turn a checkpoint folder in the Hugging Face layout into a bundle.

    Args:
        checkpoint: folder with config.json and safetensors files; "miniature" is the one in the package,
            unless there is a folder of that name.
        output: the bundle's folder; made, or with `force` replaced if it is a bundle.
        dtype: compute dtype, "float32", "float16" or "bfloat16"; None: as stored.
        pack: True copies the weights into the graphs, False refers to the checkpoint; None packs up to 1 GiB.
        sign: PEM file of an ed25519 private key, which signs the bundle.
        progress: called with a line of text before each piece of work.

    Returns:
        The bundle's folder. On any error, and when killed, nothing stands there that did not before.

    Raises:
        CheckpointError: the checkpoint is not complete and sound.
        InputError: an option or the output is not valid.
        NumericsError: a packed weight is too large for the dtype.
        MissingDependencyError: torch or onnxscript is not installed.
    """
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise InputError(f"dtype is {dtype!r}; valid: {', '.join(COMPUTE_DTYPES)}")
    say = progress or (lambda line: None)
    finish = signer(sign, BUNDLE)
    with bundle_writer(output, force) as draft, Checkpoint.open(find_checkpoint(checkpoint)) as source:
        for note in source.notes:
            say(note)
        compute_dtype = dtype or source.default_dtype
        packed = source.total_bytes <= PACK_LIMIT_BYTES if pack is None else pack
        specs = {name: in_dtype(spec, compute_dtype) for name, spec in source.weights.items()}
        maker = _graph_maker()(source.config, specs, compute_dtype, lambda piece: say(f"tracing {piece}"))
        has_mamba = LayerKind.MAMBA in source.config.layers
        roles = [role for role in GRAPH_ROLES if role != "advance" or has_mamba]
        models = {role: maker.make(role) for role in roles}
        shards = {name: ShardRecord.of(shard) for name, shard in source.shards.items()}
        reference = WeightMap("reference", specs, str(source.folder.resolve()), shards)

        weights = ReferencedWeights(reference, None, str(source.folder))
        try:
            readers = {name: partial(weights.read, spec) for name, spec in specs.items()}
            ops = _ops(models.values())
            for role, model in models.items():
                say(f"writing {role}.onnx")
                metadata = _metadata(role, source, compute_dtype, packed, ops)
                run_passes(model, pipeline(readers, metadata, packed=packed))
                _save(model, draft.path / f"{role}.onnx")
        finally:
            weights.close()
        if source.tokenizer_path is not None:
            raw = read_bounded(source.tokenizer_path, MAX_TOKENIZER_BYTES, CheckpointError)
            (draft.path / "tokenizer.json").write_bytes(raw)
        if (template := chat_template(source.folder)) is not None:
            (draft.path / "chat_template.jinja").write_text(template, encoding="utf-8")
        say("writing bundle.json")
        return draft.commit(
            Manifest(
                ttc_version=__version__,
                created_by={
                    name: version(name) for name in ("torch", "onnx", "onnx-ir", "onnxscript", "numpy")
                },
                source={"checkpoint": source.folder.resolve().name},
                model=source.config.to_dict(),
                compute_dtype=compute_dtype,
                graphs={role: f"{role}.onnx" for role in roles},
                ops=ops,
                weights=WeightMap("packed", specs) if packed else reference,
            ),
            finish,
        )


def _graph_maker() -> type["GraphMaker"]:
    try:
        from ttc.exporter.onnx.graphs import GraphMaker
    except ImportError as error:
        raise MissingDependencyError(
            f"exporting needs torch and onnxscript ({error.name} is missing); install them with: "
            f"{install('export')}"
        ) from error
    return GraphMaker


def _ops(models: Iterable[ir.Model]) -> dict[str, int]:
    """Return the ops of a bundle with their versions; those of quantised weights only where they are used."""
    used = {node.op_type for model in models for node in model.graph if node.domain == DOMAIN}
    parts = {part for op in OPS if op.name in used for part in op.parts}
    return {op.name: DOMAIN_VERSION for op in OPS if not op.is_quantised or op.name in used | parts}


def _metadata(
    role: str, source: Checkpoint, compute_dtype: str, packed: bool, ops: Mapping[str, int]
) -> dict[str, str]:
    return {
        "role": role,
        "version": __version__,
        "compute_dtype": compute_dtype,
        "weights": "initializers" if packed else "inputs",
        "model": json.dumps(source.config.to_dict(), sort_keys=True),
        "ops": json.dumps(ops, sort_keys=True),
    }


def _save(model: ir.Model, path: Path) -> None:
    """Write one graph and let onnx.checker read it back."""
    weight_bytes = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    ir.save(model, path, external_data=f"{path.name}.data" if weight_bytes > EXTERNAL_DATA_BYTES else None)
    onnx.checker.check_model(path)
