"""The model's four ONNX graphs: what goes into each, what comes out, and the state between them.

    context     input_ids (B, L), lengths (B), commit_len (B), logit_positions (B, R) int32, state
                → logits (B, R, V) float32, new state, saved block inputs
    denoiser    block_ids (B, L) int32, t (B) float32, lengths (B) int32, state → logits (B, L, V) float32
    step        logits (B, L, V) float32 and the other inputs of the op DiffusionStep
                → its outputs, and t (B) float32 for the next denoiser evaluation
    advance     saved block inputs, commit_len (B) int32, Mamba state → new Mamba state

B rows, L tokens of the block, C capacity of the caches (`max_seq_len` elsewhere), R requested positions; all
four may differ from call to call. `lengths` (`cache_seqlens` elsewhere) are the tokens in the context before
the block; the caller keeps lengths + L ≤ C. Of the L keys and values that a context call writes,
lengths + commit_len count.

A tensor of layer i carries its number: `conv_state.3`. New state has the same names and shapes with `new_`
before them. Weights are named as in the checkpoint (`ttc.model.weights`); they are inputs of the graphs too,
where a bundle does not hold them.

Engines of a context tower give, in place of a whole new cache, the block's own keys and values: `k_rows.i`
and `v_rows.i` (B, KV heads, L, head dim).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ttc.base.dims import Shape, sizes_of
from ttc.model.config import LayerKind, ModelConfig
from ttc.plugins.diffusion_step import DIFFUSION_STEP
from ttc.plugins.ops import TensorSpec

__all__ = [
    "BLOCK_IDS",
    "COMMIT_LEN",
    "COMPUTE",
    "CONTEXT_INPUTS",
    "DENOISER_INPUTS",
    "INPUT_IDS",
    "LENGTHS",
    "LOGIT_POSITIONS",
    "SAVED_NAMES",
    "STATE_NAMES",
    "STEP_INPUTS",
    "STEP_OUTPUTS",
    "GraphTensor",
    "T",
    "from_op",
    "graph_inputs",
    "graph_outputs",
    "is_kv_cache",
    "is_mamba_state",
    "kv_cache",
    "layer_names",
    "layer_saved",
    "layer_state",
    "mamba_state",
    "new_kv",
    "new_kv_name",
    "new_name",
    "new_state",
    "numbered",
    "saved_inputs",
    "state_tensors",
]

# The dtype of weights and activations, which a bundle names: float32, float16 or bfloat16.
COMPUTE: Final = "compute"
I32, F32 = "int32", "float32"


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of a graph.

    Attributes:
        name: as in the graph.
        dtype: a numpy dtype name, or `COMPUTE`.
        shape: numbers, and the letters B, L, C and R.
    """

    name: str
    dtype: str
    shape: Shape

    def dtype_in(self, compute_dtype: str) -> str:
        """Return the name of its dtype where weights and activations have `compute_dtype`."""
        return compute_dtype if self.dtype == COMPUTE else self.dtype

    def sizes(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return its shape in numbers, for these sizes of its letters."""
        return sizes_of(self.shape, sizes)

    def of_layer(self, i: int) -> "GraphTensor":
        """Return the tensor of this kind that belongs to layer i."""
        return replace(self, name=numbered(self.name, i))

    def typed(self, compute_dtype: str) -> "GraphTensor":
        """Return it with `compute_dtype` in place of `COMPUTE`."""
        return replace(self, dtype=self.dtype_in(compute_dtype))


def from_op(spec: TensorSpec) -> GraphTensor:
    """Return a tensor of an op's signature as one of a graph that consists of this op."""
    return GraphTensor(spec.name, spec.dtype, spec.shape)


INPUT_IDS = GraphTensor("input_ids", I32, ("B", "L"))
LOGIT_POSITIONS = GraphTensor("logit_positions", I32, ("B", "R"))
BLOCK_IDS = GraphTensor("block_ids", I32, ("B", "L"))
LENGTHS = GraphTensor("lengths", I32, ("B",))
COMMIT_LEN = GraphTensor("commit_len", I32, ("B",))
# The share of a row's block that is masked; negative: the row is not conditioned on time.
T = GraphTensor("t", F32, ("B",))

# The inputs of each graph beside state, saved inputs and logits.
CONTEXT_INPUTS: Final = (INPUT_IDS, LENGTHS, COMMIT_LEN, LOGIT_POSITIONS)
DENOISER_INPUTS: Final = (BLOCK_IDS, T, LENGTHS)
STEP_INPUTS: Final = tuple(map(from_op, DIFFUSION_STEP.inputs[1:]))
STEP_OUTPUTS: Final = tuple(map(from_op, DIFFUSION_STEP.outputs))

# What a layer of each kind keeps of the context, in the order of `LayerState` (`ttc.model.towers`).
STATE_NAMES: Final[Mapping[LayerKind, tuple[str, ...]]] = {
    LayerKind.MAMBA: ("conv_state", "ssm_state"),
    LayerKind.ATTENTION: ("k_cache", "v_cache"),
    LayerKind.MOE: (),
    LayerKind.MLP: (),
}
# What a context call saves of a Mamba layer, so that `advance` can move its state later.
SAVED_NAMES: Final = ("saved_xbc", "saved_dt")


def numbered(name: str, i: int) -> str:
    """Return the graph name of layer i's tensor `name`."""
    return f"{name}.{i}"


def new_name(name: str) -> str:
    """Return the name of the output that is the new value of the state tensor `name`."""
    return f"new_{name}"


def new_kv_name(name: str) -> str:
    """Return the name of the output with the keys or values that a block adds to the cache `name`.

    "rows" in it are rows of the cache, not of the batch. The name stays, since built engines hold it.
    """
    return name.replace("_cache", "_rows")


def is_kv_cache(name: str) -> bool:
    """Whether a graph name is that of a cache of keys or values."""
    return name.partition(".")[0] in STATE_NAMES[LayerKind.ATTENTION]


def is_mamba_state(name: str) -> bool:
    """Whether a graph name is that of a Mamba layer's state."""
    return name.partition(".")[0] in STATE_NAMES[LayerKind.MAMBA]


def layer_state(config: ModelConfig, kind: LayerKind) -> tuple[GraphTensor, ...]:
    """Return what a layer of this kind keeps of the context, without the layer's number.

    Mamba: conv_state (B, F, W−1), the last raw inputs of the convolution, and ssm_state (B, H, P, N) float32.
    Attention: k_cache and v_cache (B, KV heads, C, head dim).
    """
    shapes: Mapping[LayerKind, tuple[tuple[str, Shape], ...]] = {
        LayerKind.MAMBA: (
            (COMPUTE, ("B", config.conv_dim, config.conv_kernel - 1)),
            (F32, ("B", config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size)),
        ),
        LayerKind.ATTENTION: ((COMPUTE, ("B", config.num_key_value_heads, "C", config.head_dim)),) * 2,
    }
    named = zip(STATE_NAMES[kind], shapes.get(kind, ()), strict=True)
    return tuple(GraphTensor(name, dtype, shape) for name, (dtype, shape) in named)


def layer_names(config: ModelConfig, i: int) -> tuple[str, ...]:
    """Return the graph names of what layer i keeps of the context."""
    return tuple(numbered(name, i) for name in STATE_NAMES[config.layers[i]])


def layer_saved(config: ModelConfig, kind: LayerKind) -> tuple[GraphTensor, ...]:
    """Return what a context call saves of a layer of this kind, without the layer's number.

    Mamba: saved_xbc (B, L, F), the raw inputs of the convolution, and saved_dt (B, L, H), the raw time steps.
    """
    if kind != LayerKind.MAMBA:
        return ()
    widths = (config.conv_dim, config.mamba_num_heads)
    return tuple(
        GraphTensor(name, COMPUTE, ("B", "L", width)) for name, width in zip(SAVED_NAMES, widths, strict=True)
    )


def state_tensors(config: ModelConfig) -> tuple[GraphTensor, ...]:
    """Return the whole context state, in layer order."""
    layers = enumerate(config.layers)
    return tuple(tensor.of_layer(i) for i, kind in layers for tensor in layer_state(config, kind))


def mamba_state(config: ModelConfig) -> tuple[GraphTensor, ...]:
    """Return the state of the Mamba layers, in layer order."""
    return tuple(tensor for tensor in state_tensors(config) if is_mamba_state(tensor.name))


def kv_cache(config: ModelConfig) -> tuple[GraphTensor, ...]:
    """Return the caches of keys and values, in layer order."""
    return tuple(tensor for tensor in state_tensors(config) if is_kv_cache(tensor.name))


def saved_inputs(config: ModelConfig) -> tuple[GraphTensor, ...]:
    """Return what a context call saves for `advance`, in layer order."""
    layers = enumerate(config.layers)
    return tuple(tensor.of_layer(i) for i, kind in layers for tensor in layer_saved(config, kind))


def new_state(state: Sequence[GraphTensor]) -> tuple[GraphTensor, ...]:
    """Return the outputs that are the new values of these state tensors."""
    return tuple(replace(tensor, name=new_name(tensor.name)) for tensor in state)


def new_kv(config: ModelConfig) -> tuple[GraphTensor, ...]:
    """Return the keys and values of a block, (B, KV heads, L, head dim), in the order of the caches."""
    return tuple(
        replace(
            cache,
            name=new_kv_name(cache.name),
            shape=tuple("L" if dim == "C" else dim for dim in cache.shape),
        )
        for cache in kv_cache(config)
    )


def graph_inputs(config: ModelConfig, role: str) -> tuple[GraphTensor, ...]:
    """Return the inputs of the graph `role`, weights apart."""
    if role == "context":
        return (*CONTEXT_INPUTS, *state_tensors(config))
    if role == "denoiser":
        return (*DENOISER_INPUTS, *state_tensors(config))
    if role == "step":
        return (_logits(config, "L"), *STEP_INPUTS)
    return (*saved_inputs(config), COMMIT_LEN, *mamba_state(config))


def graph_outputs(config: ModelConfig, role: str) -> tuple[GraphTensor, ...]:
    """Return the outputs of the graph `role`, in order."""
    if role == "context":
        return (_logits(config, "R"), *new_state(state_tensors(config)), *saved_inputs(config))
    if role == "denoiser":
        return (_logits(config, "L"),)
    if role == "step":
        return (*STEP_OUTPUTS, T)
    return new_state(mamba_state(config))


def _logits(config: ModelConfig, positions: str) -> GraphTensor:
    return GraphTensor("logits", F32, ("B", positions, config.vocab_size))
