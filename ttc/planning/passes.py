"""Bytes and operations of one pass of a tower, from the configuration alone.

A pass reads the weights it uses once, reads and writes the state of its rows, and moves every activation
between two kernels through memory once each way; `ttc.plugins.costs` has the rules. Those are the least that
separate kernels can do; a fused kernel may move fewer activations, never fewer weights.

Of the context tower: an AR step is L = 1, an extension L = 16 with logits at one position, a verification
L = 16 with logits at all. Of the denoiser: one evaluation (NFE), its diffusion step included.
"""

import functools
import math
from collections.abc import Mapping

from ttc.base.dtypes import numpy_dtype
from ttc.base.quantised import PLAIN
from ttc.model.config import TIME_FEATURES, LayerKind, ModelConfig
from ttc.model.graphs import COMPUTE, state_tensors
from ttc.model.signatures import op_dims
from ttc.model.weights import CONTEXT, DENOISER, expected_tensors, tower_of
from ttc.planning.expert_formats import TILE_ROWS, ExpertFormats, expert_matrix_bytes, experts_bytes
from ttc.planning.experts import Routing
from ttc.plugins.costs import Cost, attention_cost, elementwise_cost, linear_cost, norm_cost, op_cost
from ttc.plugins.diffusion_step import DIFFUSION_STEP
from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN
from ttc.plugins.moe_experts import MOE_EXPERTS
from ttc.plugins.moe_routing import MOE_ROUTING

__all__ = [
    "EXPERTS",
    "context_pass",
    "decoded_weights",
    "denoiser_pass",
    "parameters",
    "state_bytes",
    "total",
    "tower_bytes",
]

Parts = Mapping[str, Cost]
# The part that the routed experts are; the rest of their layers goes under the layers' letter.
EXPERTS = "experts"


def context_pass(
    config: ModelConfig,
    rows: int,
    length: int,
    context: int,
    itemsize: int,
    routing: Routing,
    logits: int = 1,
    experts: str = PLAIN,
) -> Parts:
    """Return the cost of one call of the context tower, by part.

    Args:
        rows: B.
        length: L tokens of each row.
        context: tokens already in the caches.
        itemsize: bytes of the compute dtype.
        logits: positions of each row that get logits.
        experts: format of the routed experts (`ttc.base.quantised`).
    """
    parts = _tower(config, rows, length, context, itemsize, routing, experts)
    if LayerKind.MAMBA in config.layers:
        dims = op_dims(config) | {"B": rows, "L": length}
        advance = op_cost(MAMBA_ADVANCE, dims, itemsize) * len(config.layers_of(LayerKind.MAMBA))
        parts[LayerKind.MAMBA] += advance
    parts["head"] = _head(config, rows * logits, itemsize)
    return parts


def denoiser_pass(
    config: ModelConfig,
    rows: int,
    length: int,
    context: int,
    itemsize: int,
    routing: Routing,
    experts: str = PLAIN,
) -> Parts:
    """Return the cost of one denoiser evaluation and its diffusion step, by part; arguments as above."""
    parts = _tower(config, rows, length, context, itemsize, routing, experts)
    D = config.hidden_size
    # The modulation before the mixer, and the gate after it.
    modulated = elementwise_cost(rows * length * D, 2, itemsize, flops=4)
    parts["time"] = (
        linear_cost(rows, TIME_FEATURES, D, itemsize)
        + linear_cost(rows, D, D, itemsize)
        + linear_cost(rows, D, 3 * D, itemsize)
        + modulated * config.num_layers
    )
    parts["head"] = _head(config, rows * length, itemsize)
    dims = op_dims(config) | {"B": rows, "L": length}
    parts["step"] = op_cost(DIFFUSION_STEP, dims, itemsize)
    return parts


def total(parts: Parts) -> Cost:
    """Return the sum of all parts."""
    return sum(parts.values(), Cost(0.0, 0.0))


def parameters(config: ModelConfig) -> int:
    """Return the parameters of the whole checkpoint, both towers and the time conditioning."""
    return sum(_tower_parameters(config).values())


def state_bytes(config: ModelConfig, rows: int, context: int, itemsize: int) -> int:
    """Return the bytes of the context state of `rows` rows (docs/model.md, State) after `context` tokens."""
    sizes = {"B": rows, "C": context}
    return sum(
        math.prod(tensor.sizes(sizes))
        * (itemsize if tensor.dtype == COMPUTE else numpy_dtype(tensor.dtype).itemsize)
        for tensor in state_tensors(config)
    )


def tower_bytes(config: ModelConfig, itemsize: int, formats: ExpertFormats) -> dict[str, float]:
    """Return the bytes of each tower's weights, quantised experts with their scales; the time conditioning
    is the denoiser's.
    """
    plain = experts_bytes(config, PLAIN, itemsize)
    return {
        tower: count * itemsize - plain + experts_bytes(config, formats.of(tower), itemsize)
        for tower, count in _tower_parameters(config).items()
    }


def decoded_weights(config: ModelConfig, rows: int, length: int, routing: Routing) -> float:
    """Return how many weights of routed experts a kernel decodes in one pass: those of every expert that is
    hit, and again for every further `TILE_ROWS` of its tokens.
    """
    if not config.n_routed_experts:
        return 0.0
    pairs = rows * length * config.num_experts_per_tok
    hit = routing.experts(config.n_routed_experts, config.num_experts_per_tok, rows, length)
    expert = 2 * config.moe_intermediate_size * config.hidden_size
    return len(config.layers_of(LayerKind.MOE)) * expert * max(hit, pairs / TILE_ROWS)


@functools.lru_cache(maxsize=8)
def _tower_parameters(config: ModelConfig) -> Mapping[str, int]:
    found = dict.fromkeys((CONTEXT, DENOISER), 0)
    for name, shape in expected_tensors(config).items():
        found[tower_of(name)] += math.prod(shape)
    return found


def _tower(
    config: ModelConfig,
    rows: int,
    length: int,
    context: int,
    itemsize: int,
    routing: Routing,
    experts: str,
) -> dict[str, Cost]:
    """Return the cost of what both towers share: embedding, norms and residuals, and all mixers, by layer
    kind.
    """
    tokens, D = rows * length, config.hidden_size
    around = norm_cost(tokens, D, itemsize) + elementwise_cost(tokens * D, 2, itemsize)
    parts = {"embedding": Cost(0.0, 2.0 * tokens * D * itemsize), "norms": around * config.num_layers}
    for kind in sorted(set(config.layers)):
        count = len(config.layers_of(kind))
        if kind == LayerKind.MAMBA:
            mixer = _mamba(config, rows, length, itemsize)
        elif kind == LayerKind.ATTENTION:
            mixer = _attention(config, rows, length, context, itemsize)
        elif kind == LayerKind.MOE:
            mixer = _beside_experts(config, rows, length, itemsize, routing)
            parts[EXPERTS] = _experts(config, rows, length, itemsize, routing, experts) * count
        else:
            mixer = _mlp(config, tokens, config.intermediate_size, itemsize)
        parts[kind] = mixer * count
    return parts


def _mamba(config: ModelConfig, rows: int, length: int, itemsize: int) -> Cost:
    tokens = rows * length
    scan = op_cost(MAMBA_BLOCK_SCAN, op_dims(config) | {"B": rows, "L": length}, itemsize)
    gated_norm = norm_cost(tokens, config.d_inner, itemsize) + elementwise_cost(
        tokens * config.d_inner, 1, itemsize, flops=4
    )
    return (
        linear_cost(tokens, config.hidden_size, config.in_proj_dim, itemsize)
        + scan
        + gated_norm
        + linear_cost(tokens, config.d_inner, config.hidden_size, itemsize)
    )


def _attention(config: ModelConfig, rows: int, length: int, context: int, itemsize: int) -> Cost:
    tokens, D = rows * length, config.hidden_size
    projections = (
        linear_cost(tokens, D, config.query_dim, itemsize)
        + linear_cost(tokens, D, config.key_value_dim, itemsize) * 2
        + linear_cost(tokens, config.query_dim, D, itemsize)
    )
    return projections + attention_cost(
        rows,
        length,
        context,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        itemsize,
    )


def _experts(
    config: ModelConfig, rows: int, length: int, itemsize: int, routing: Routing, experts: str
) -> Cost:
    """Return the cost of the routed experts of a layer."""
    tokens, E = rows * length, config.n_routed_experts
    read = routing.experts(E, config.num_experts_per_tok, rows, length)
    routed = op_cost(MOE_EXPERTS, op_dims(config) | {"T": tokens}, itemsize, experts=read)
    inner, hidden = config.moe_intermediate_size, config.hidden_size
    for outputs, inputs in ((inner, hidden), (hidden, inner)):
        plain = expert_matrix_bytes(PLAIN, outputs, inputs, itemsize)
        saved = plain - expert_matrix_bytes(experts, outputs, inputs, itemsize)
        routed += Cost(0.0, -read * saved)
    if not routing.dense:
        return routed
    # Every expert's two products over every token, and both of their results through memory.
    width = config.moe_intermediate_size + config.hidden_size
    products = 4.0 * tokens * E * config.moe_intermediate_size * config.hidden_size
    return Cost(products, routed.bytes + 2.0 * tokens * E * width * itemsize)


def _beside_experts(config: ModelConfig, rows: int, length: int, itemsize: int, routing: Routing) -> Cost:
    """Return the cost of a mixture layer's rest: the gate, the routing, the shared expert and the sum."""
    tokens, E = rows * length, config.n_routed_experts
    read = routing.experts(E, config.num_experts_per_tok, rows, length)
    return (
        linear_cost(tokens, config.hidden_size, E, 4)  # the gate computes in float32
        + op_cost(MOE_ROUTING, op_dims(config) | {"T": tokens}, itemsize, experts=read)
        + _mlp(config, tokens, config.moe_shared_expert_intermediate_size, itemsize)
        + elementwise_cost(tokens * config.hidden_size, 2, itemsize)
    )


def _mlp(config: ModelConfig, tokens: int, width: int, itemsize: int) -> Cost:
    return (
        linear_cost(tokens, config.hidden_size, width, itemsize)
        + elementwise_cost(tokens * width, 1, itemsize, flops=2)
        + linear_cost(tokens, width, config.hidden_size, itemsize)
    )


def _head(config: ModelConfig, positions: int, itemsize: int) -> Cost:
    """Return the cost of the last norm and the logits, which are float32."""
    written = Cost(0.0, 4.0 * positions * config.vocab_size)
    return (
        norm_cost(positions, config.hidden_size, itemsize)
        + linear_cost(positions, config.hidden_size, config.vocab_size, itemsize)
        + written
    )
