"""ONNX Runtime's own operators in place of ours, on the CPU, in memory and in float32.

The body of an op in a bundle's graphs is right everywhere; ONNX Runtime has kernels for most of what the
bodies say, and knows a few things better: a Mamba scan is linear attention with a decay, attention writes its
keys and values where the cache lies, and computes over the tokens that there are. A graph then has a third
of the nodes and none that only work out shapes. Constants that depend on weights alone stay nodes, which
ONNX Runtime folds when it makes the session.

What a changed graph takes and gives (`ttc.model.graphs` has the rest):

- conv_state (B, W−1, F) and ssm_state (B, H, N, P): other order, same numbers.
- context: `seqlens_k` (B) int32, the index of each row's last token after the call; `query_seqlens` (B)
  int32, L; `total_sequence_length` () int32, the most tokens of a row after the call; in place of `lengths`
  and `commit_len`. `new_k_cache.i` has to be given the memory of `k_cache.i`, and so with values: keys and
  values of the block are written there. The Mamba state is that after all L tokens.
- denoiser: `attention_mask` (B, 1, L, C + L) bool in place of `lengths`, true where there is a token.
- advance: as it was.
"""

import onnx_ir as ir
import onnxruntime

from ttc.model.config import ModelConfig
from ttc.model.rewrites import remove_unread_nodes
from ttc.plugins.ops import DOMAIN
from ttc.runtime.backends.onnxruntime.native.attention import block_attention
from ttc.runtime.backends.onnxruntime.native.mamba import (
    gated_group_norm,
    mamba_advance,
    mamba_block_scan,
    mamba_conv,
    reorder_state,
)
from ttc.runtime.backends.onnxruntime.native.mixture import mixture_residual
from ttc.runtime.backends.onnxruntime.native.modulation import Modulation
from ttc.runtime.backends.onnxruntime.native.norms import stream_norm
from ttc.runtime.backends.onnxruntime.native.rewriting import MICROSOFT, Rewriter

__all__ = ["has_native_ops", "use_native_ops"]

# The first release with every operator and attribute that is used here.
_FIRST = (1, 32)
# What the width of a head has to be a multiple of, for `GroupQueryAttention`.
_HEAD_UNIT = 8
# Of `Attention`; what the other operators in the graphs mean is the same in it.
_OPSET = 23


def has_native_ops(config: ModelConfig) -> bool:
    """Return whether the installed ONNX Runtime has all of these operators, for heads as this model's."""
    major, minor = onnxruntime.__version__.split(".")[:2]
    return (int(major), int(minor)) >= _FIRST and config.head_dim % _HEAD_UNIT == 0


def use_native_ops(model: ir.Model) -> None:
    """Replace the ops of one float32 graph, in place; those that have no counterpart keep their bodies."""
    rewriter, modulation = Rewriter(model), Modulation()
    handlers = {
        "BlockAttention": block_attention,
        "GatedGroupNorm": gated_group_norm,
        "GatedMixtureResidual": modulation.gated_mixture_residual,
        "GatedResidual": modulation.gated_residual,
        "MambaAdvance": mamba_advance,
        "MambaBlockScan": mamba_block_scan,
        "MambaConv": mamba_conv,
        "MixtureResidual": mixture_residual,
        "ModulatedNorm": modulation.modulated_norm,
        "NormModulated": modulation.norm_modulated,
        "StreamNorm": stream_norm,
    }
    graph = model.graph
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type in handlers and node.graph is graph:
            handlers[node.op_type](rewriter, node)
    remove_unread_nodes(graph)
    reorder_state(graph)
    for value in [each for each in graph.inputs if each.name in ("lengths", "commit_len")]:
        if not value.uses():
            graph.inputs.remove(value)
    left = {(node.domain, node.op_type) for node in graph.all_nodes()}
    for identifier in [each for each in model.functions if each[:2] not in _needed(model, left)]:
        del model.functions[identifier]
    for imports in (graph.opset_imports, *(function.opset_imports for function in model.functions.values())):
        imports[""] = max(_OPSET, imports.get("", _OPSET))
    graph.opset_imports[MICROSOFT] = 1


def _needed(model: ir.Model, calls: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the operators that these calls need, directly or in a body."""
    needed, found = set(calls), set(calls)
    while found:
        bodies = [function for key, function in model.functions.items() if key[:2] in found]
        found = {(n.domain, n.op_type) for body in bodies for n in body.all_nodes()} - needed
        needed |= found
    return needed
