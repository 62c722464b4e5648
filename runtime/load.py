"""From a bundle's folder to an engine."""

import logging
import os
from collections.abc import Callable

from ttc.base.names import BackendName, ProviderName
from ttc.errors import InputError
from ttc.formats.shipped import find_bundle
from ttc.formats.strictjson import quoted
from ttc.formats.verification import check_verified
from ttc.model.bundle import Bundle
from ttc.runtime.backends import load_backend
from ttc.runtime.decoding.limits import is_count
from ttc.runtime.engine import Engine
from ttc.runtime.interface.settings import LoadSettings
from ttc.runtime.text import load_tokenizer

__all__ = ["load"]

logger = logging.getLogger(__name__)


def load(
    bundle: str | os.PathLike[str],
    backend: BackendName = "onnxruntime",
    device: str | None = None,
    capacity: int | None = None,
    engines: str | os.PathLike[str] | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    trust: str | os.PathLike[str] | None = None,
    graph_level: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    require_verified: bool = False,
    prefix_cache_bytes: int | None = 0,
    sparse_experts: bool = False,
    provider: ProviderName | None = None,
) -> Engine:
    """Open a bundle on a backend.

    Args:
        bundle: the folder that `ttc export` wrote; its digests are checked first. "miniature" is the model
            that comes with the package, unless there is a folder of that name.
        backend: "onnxruntime", "torch", "tensorrt" or "tensorrt-rtx".
        device: "cpu", "cuda" or "cuda:N"; "cuda:0,cuda:1" puts a tower on each of two GPUs (not onnxruntime);
            None takes the best there is.
        capacity: tokens a row may hold, prompt and new ones together; None fits each generation, up to the
            model's max_position_embeddings.
        engines: folder of TensorRT engines, by default BUNDLE/engines; only for backends that run engines.
        checkpoint: where the checkpoint of a referenced bundle lies now, if it has moved.
        threads: CPU threads for each call of the onnxruntime backend; None takes all cores for a large model,
            and for a small one a thread, or one per core for the rows of a call that has many.
        trust: PEM file of the public key that must have signed what is used: the bundle, engines that are
            run, and the record that `require_verified` asks for.
        graph_level: most that CUDA graphs may hold: 0 nothing, 1 a step, 2 a block; None for the most there
            is. Only for backends on a GPU.
        progress: called with (bytes done, bytes in all) while weights go to a GPU.
        require_verified: refuse a bundle, or a set of engines, that did not pass `ttc verify` on this backend
            as it is now.
        prefix_cache_bytes: keep the states of prompts up to this size, so that a common beginning is read
            once; 0 keeps none, None takes a share of the free memory where the backend can keep states.
        sparse_experts: on ONNX Runtime's CPU, compute an expert for the tokens that chose it alone, not for
            all; for half as much memory again of the experts.
        provider: who computes ONNX Runtime's graphs: "cpu", "cuda", "tensorrt" or "nv-tensorrt-rtx"; None
            takes "cuda" where the installed ONNX Runtime has it, else "cpu".

    Raises:
        BundleError: not a bundle, damaged, not verified, or its checkpoint is missing or changed.
        InputError: an unknown backend or device, a capacity that is none.
        BackendError: the backend cannot be had here; `DeviceMemoryError` where a GPU is too small.
    """
    opened = Bundle.open(find_bundle(bundle), checkpoint, trust)
    verified = check_verified(opened, backend, engines, trust) if require_verified else None
    limit = opened.config.max_position_embeddings
    if capacity is not None and (not is_count(capacity) or capacity > limit):
        raise InputError(
            f"capacity is {quoted(capacity)}; valid: 1 to {limit} tokens "
            "(the model's max_position_embeddings)"
        )
    tokenizer = load_tokenizer(opened)
    settings = LoadSettings(
        device, threads, engines, trust, graph_level, sparse_experts, progress, verified, provider
    )
    try:
        engine = Engine(
            load_backend(backend, opened, settings),
            tokenizer,
            capacity,
            prefix_cache_bytes=prefix_cache_bytes,
        )
        engine.chat_template = opened.read_chat_template()
        logger.info("loaded %s: %r", opened.path, engine)
        return engine
    finally:
        opened.close()
