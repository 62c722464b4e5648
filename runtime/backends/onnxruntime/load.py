"""Bundle → ONNX Runtime sessions.

Weights are handed to the sessions as initializers in memory of ours, read and converted once and shared
between sessions, whether the bundle is packed or refers to a checkpoint. Quantised experts are decoded, since
ONNX Runtime either has no kernel for their formats or decodes them in every call.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from ttc.base.machine import usable_cores
from ttc.base.quoting import escaped
from ttc.errors import BundleError, TtcError
from ttc.formats.manifest import MANIFEST_FILE
from ttc.model.bundle import Bundle
from ttc.model.graphs import GraphTensor, graph_inputs, graph_outputs
from ttc.model.rewrites import caches_to_new_kv
from ttc.runtime.backends.onnxruntime.graphs import decode_experts, externalise_weights, upcast
from ttc.runtime.backends.onnxruntime.in_place import InPlaceBackend
from ttc.runtime.backends.onnxruntime.native import has_native_ops, use_native_ops
from ttc.runtime.backends.onnxruntime.native.form import has_native_form
from ttc.runtime.backends.onnxruntime.providers import choose_provider
from ttc.runtime.backends.onnxruntime.resident import ResidentBackend
from ttc.runtime.backends.onnxruntime.row_workers import RowWorkers
from ttc.runtime.backends.onnxruntime.run import OnnxRuntimeBackend
from ttc.runtime.backends.onnxruntime.sparse import rows_twice, sparsify_experts
from ttc.runtime.backends.onnxruntime.values import value_of
from ttc.runtime.interface.settings import LoadSettings

__all__ = ["Prepare", "load"]

logger = logging.getLogger(__name__)

# Below this many bytes of weights one thread per call is the default: the matrix products are then so small
# that a second thread gains nothing on an idle machine and, waiting for the first, loses much on a busy one.
ONE_THREAD_BYTES = 64 * 2**20


# Called with the role, the graph and the session's options before each session is made.
Prepare = Callable[[str, ir.Model, onnxruntime.SessionOptions], None]


def load(
    bundle: Bundle,
    settings: LoadSettings,
    *,
    prepare: Prepare | None = None,
    native: bool = True,
    resident: bool = False,
) -> OnnxRuntimeBackend:
    """Make one session per graph of the bundle; `settings.threads` is for each call of each session.

    Args:
        bundle, settings: as in `ttc.load`.
        prepare: may add outputs to a graph and set options; what watches the layers goes this way.
        native: on the CPU, use ONNX Runtime's own operators where it has them and the graphs have the form of
            an export; else the bodies in the bundle.
        resident: keep the state where it is computed on the CPU too, as on a GPU; for tests.
    """
    settings.refuse_engines("onnxruntime")
    settings.refuse_cuda_graphs("backend 'onnxruntime'")
    threads = settings.threads
    choice = choose_provider(settings.provider, settings.device, bundle.manifest_sha256, bundle.compute_dtype)
    (kind, index), providers, notes = choice.device, choice.providers, choice.notes
    resident = resident or kind == "cuda"
    if resident:
        settings.refuse_sparse_experts("on CUDA", "the operator has other rules; leave it out")
    # The CPU provider has no matrix product in these.
    widen = kind == "cpu" and bundle.compute_dtype in ("bfloat16", "float16")
    if widen:
        notes.append(
            f"the bundle's {bundle.compute_dtype} graphs are computed in float32 by ONNX Runtime on {kind}"
        )
    for note in notes:
        logger.warning(note)

    native = native and not resident and has_native_ops(bundle.config)
    decoded = bundle.decoded_weights
    values: dict[str, onnxruntime.OrtValue] = {}
    sessions, chosen = {}, list[onnxruntime.SessionOptions]()
    models = {}
    for role in bundle.manifest.graphs:
        with _faults_of(bundle.graph_path(role)):
            model = _graph(bundle, role)
            decode_experts(model, bundle.compute_dtype)
            models[role] = model, externalise_weights(model, decoded)
            if widen:
                upcast(model)
            native = native and has_native_form(model)
    for role, (model, used) in models.items():
        with _faults_of(bundle.graph_path(role)):
            doubled = (
                sparsify_experts(model, bundle.config.num_experts_per_tok) if settings.sparse_experts else []
            )
            if native:
                use_native_ops(model)
            elif role == "context" and not resident:
                caches_to_new_kv(model)
        for name in used:
            if name not in values:
                weight = bundle.read_decoded(name, "float32" if widen else None)
                narrow = widen and str(weight.dtype) == bundle.compute_dtype
                weight = weight.astype("float32") if narrow else weight
                weight = rows_twice(weight) if name in doubled else weight
                values[name] = value_of(np.ascontiguousarray(weight))
        options = _options(sum(values[name].tensor_size_in_bytes() for name in used), threads)
        chosen.append(options)
        if native and role == "step":
            continue  # taken on the host
        if prepare is not None:
            prepare(role, model, options)
        with _faults_of(bundle.graph_path(role)):
            sessions[role] = _session(model, {name: values[name] for name in used}, providers, options)
            choice.check(sessions[role])
    compute_dtype = "float32" if widen else bundle.compute_dtype
    if resident:
        return ResidentBackend(bundle.config, sessions, values, compute_dtype, choice, notes)
    if not native:
        return OnnxRuntimeBackend(bundle.config, sessions, values, compute_dtype, (kind, index), notes)
    # Where a call has one thread by default, its rows are what the other cores can be given.
    single = threads is None and all(options.intra_op_num_threads == 1 for options in chosen)
    workers = RowWorkers(usable_cores() if single else 1)
    return InPlaceBackend(bundle.config, sessions, values, compute_dtype, notes, workers)


@contextlib.contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Turn what the libraries raise at a graph that is not as ours are into an error that names its file."""
    try:
        yield
    except TtcError:
        raise
    except Exception as fault:  # they have many, without a common base
        lines = str(fault).strip().splitlines()
        reason = escaped(lines[0])[:200] if lines else "no reason is given"
        raise BundleError(
            f"{path}: a graph that cannot be run ({type(fault).__name__}: {reason}); export again"
        ) from fault


def _options(weight_bytes: int, threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or (1 if weight_bytes < ONE_THREAD_BYTES else 0)  # 0: one per core
    # Threads that spin while they wait take the cores from the host's loop and from other engines.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(
    model: ir.Model,
    weights: dict[str, onnxruntime.OrtValue],
    providers: list[str | tuple[str, dict[str, str]]],
    options: onnxruntime.SessionOptions,
) -> onnxruntime.InferenceSession:
    if weights:
        options.add_external_initializers(list(weights), list(weights.values()))
    serialized = ir.serde.serialize_model(model).SerializeToString()
    return onnxruntime.InferenceSession(serialized, options, providers=providers)


def _graph(bundle: Bundle, role: str) -> ir.Model:
    """One graph of the bundle, which must say of itself what the manifest says."""
    path, model = bundle.graph_path(role), bundle.read_graph(role)
    said = {key: model.metadata_props.get(f"ttc.{key}", "") for key in ("role", "compute_dtype", "model")}
    wanted = {
        "role": role,
        "compute_dtype": bundle.compute_dtype,
        "model": json.dumps(bundle.config.to_dict(), sort_keys=True),
    }
    for key, text in wanted.items():
        if said[key] != text:
            raise BundleError(f"{path}: its {key} is not the one of {MANIFEST_FILE}; export again")
    for due, found in (
        (graph_inputs(bundle.config, role), model.graph.inputs),
        (graph_outputs(bundle.config, role), model.graph.outputs),
    ):
        named = {value.name: value for value in found}
        for tensor in due:
            if not _is(named.get(tensor.name), tensor.typed(bundle.compute_dtype)):
                raise BundleError(
                    f"{path}: has no {tensor.name} of {tensor.dtype} and {len(tensor.shape)} dimensions "
                    "among its inputs or outputs; export again"
                )
    return model


def _is(value: ir.Value | None, due: GraphTensor) -> bool:
    """Whether a graph's input or output is of the dtype and rank that it must be."""
    if value is None or value.dtype is None or value.shape is None:
        return False
    return value.dtype.numpy().name == due.dtype and len(value.shape) == len(due.shape)
