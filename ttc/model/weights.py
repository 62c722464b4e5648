"""Every weight of a model: its name and shape in the graphs, what it is made of, and which graphs take it.

The experts of a layer may be stored one by one (`experts.{e}.up_proj.weight`) or stacked (`experts.up_proj`,
with or without `.weight`); the graphs always take the stack. docs/model.md lists the weights;
`ttc.model.matching` finds them in a checkpoint.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ttc.formats.manifest import WeightSpec
from ttc.formats.strictjson import quoted
from ttc.model.config import TIME_FEATURES, LayerKind, ModelConfig
from ttc.model.graphs import COMPUTE

__all__ = [
    "ADVANCE_WEIGHTS",
    "CONTEXT",
    "DENOISER",
    "GRAPH_OF",
    "HEADS",
    "TIME_WEIGHTS",
    "TOWER_GRAPHS",
    "Shape",
    "expected_tensors",
    "expert_stacks",
    "first_of",
    "in_dtype",
    "joined_projections",
    "model_weights",
    "tower_of",
]

Shape = tuple[int, ...]

CONTEXT, DENOISER = "context_tower", "denoiser_tower"
# The graph that computes a tower.
GRAPH_OF: Mapping[str, str] = {CONTEXT: "context", DENOISER: "denoiser"}
# The graphs that run where a tower's weights are, on one GPU or on two.
TOWER_GRAPHS: Mapping[str, tuple[str, ...]] = {
    CONTEXT: (GRAPH_OF[CONTEXT], "advance"),
    DENOISER: (GRAPH_OF[DENOISER], "step"),
}
HEADS: Mapping[str, str] = {CONTEXT: "context_lm_head.weight", DENOISER: "lm_head.weight"}
TIME_WEIGHTS = (
    "t_embedder.mlp.0.weight",
    "t_embedder.mlp.0.bias",
    "t_embedder.mlp.2.weight",
    "t_embedder.mlp.2.bias",
    "t_block.1.weight",
    "t_block.1.bias",
)
# The rest are names inside a layer. What `advance` needs of a Mamba layer:
ADVANCE_WEIGHTS = ("mixer.conv1d.weight", "mixer.conv1d.bias", "mixer.dt_bias", "mixer.A_log")
# Float32 in the graph whatever the model's dtype, because near-ties decide the routing:
_ROUTER_WEIGHTS = ("mixer.gate.weight", "mixer.gate.e_score_correction_bias")
# Stacks of experts:
_EXPERT_STACKS = ("mixer.experts.up_proj.weight", "mixer.experts.down_proj.weight")


def model_weights(config: ModelConfig) -> dict[str, WeightSpec]:
    """Return every weight of the graphs by name, context tower first.

    The experts are made of one tensor each. The dtype is "float32" or `COMPUTE`; see `in_dtype`.
    """
    hidden = config.hidden_size
    # (out, in) of the time MLPs' three matrices; each is followed by its bias.
    matrices = ((hidden, TIME_FEATURES), (hidden, hidden), (3 * hidden, hidden))
    time_shapes = [shape for matrix in matrices for shape in (matrix, matrix[:1])]
    specs = [*_tower(config, CONTEXT), *_tower(config, DENOISER)]
    specs += [_whole(name, shape, DENOISER) for name, shape in zip(TIME_WEIGHTS, time_shapes, strict=True)]
    specs += [_whole(f"scale_shift_tables.{i}", (3, hidden), DENOISER) for i in range(config.num_layers)]
    return {spec.name: spec for spec in specs}


def joined_projections(config: ModelConfig, tower: str) -> dict[str, tuple[str, ...]]:
    """Return the weights that one product can take in place of several, and which those are: of attention
    layers the projections to queries, keys and values.
    """
    found = {}
    for i in config.layers_of(LayerKind.ATTENTION):
        mixer = f"{tower}.layers.{i}.mixer"
        found[f"{mixer}.qkv_proj.weight"] = tuple(f"{mixer}.{name}_proj.weight" for name in ("q", "k", "v"))
    return found


def expert_stacks(config: ModelConfig, tower: str) -> list[str]:
    """Return the weights that are stacks of a tower's experts, (E, OUT, IN)."""
    layers = config.layers_of(LayerKind.MOE)
    return [f"{tower}.layers.{i}.{inside}" for i in layers for inside in _EXPERT_STACKS]


def tower_of(name: str) -> str:
    """Return the tower that a weight is of, by its name; the time embedding is the denoiser's."""
    return CONTEXT if name.startswith(f"{CONTEXT}.") or name == HEADS[CONTEXT] else DENOISER


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Return name → shape of every tensor of a checkpoint whose experts are stored one by one."""
    return {tensor: spec.part_shape for spec in model_weights(config).values() for tensor in spec.tensors}


def in_dtype(spec: WeightSpec, compute_dtype: str) -> WeightSpec:
    """Return the weight as the graphs of this compute dtype have it."""
    return replace(spec, dtype=compute_dtype) if spec.dtype == COMPUTE else spec


def first_of(names: list[str], count: int = 5) -> str:
    """Return the first `count` of `names` for a message, and how many more there are."""
    shortened = [name if len(name) <= 320 and name.isprintable() else quoted(name) for name in names[:count]]
    return ", ".join(shortened) + (f", and {len(names) - count} more" if len(names) > count else "")


def _tower(config: ModelConfig, tower: str) -> Iterator[WeightSpec]:
    """Yield the weights of a tower and its head."""
    hidden = config.hidden_size
    yield _whole(f"{tower}.embeddings.weight", (config.vocab_size, hidden), tower)
    for i, kind in enumerate(config.layers):
        yield _whole(f"{tower}.layers.{i}.norm.weight", (hidden,), tower)
        for name, shape in _mixer(config, kind).items():
            yield _of_mixer(tower, i, f"mixer.{name}", shape)
    yield _whole(f"{tower}.norm_f.weight", (hidden,), tower)
    yield _whole(HEADS[tower], (config.vocab_size, hidden), tower)


def _whole(name: str, shape: Shape, tower: str) -> WeightSpec:
    """Return a weight that is one tensor of the same name."""
    return WeightSpec(name, (name,), False, shape, COMPUTE, (GRAPH_OF[tower],))


def _of_mixer(tower: str, i: int, inside: str, shape: Shape) -> WeightSpec:
    """Return a weight of layer i's mixer; `inside` is its name in the layer."""
    spec = _whole(f"{tower}.layers.{i}.{inside}", shape, tower)
    if tower == CONTEXT and inside in ADVANCE_WEIGHTS:
        return replace(spec, graphs=(*spec.graphs, "advance"))
    if inside in _ROUTER_WEIGHTS:
        return replace(spec, dtype="float32")
    if inside in _EXPERT_STACKS:
        before, projection = spec.name.split(".experts.")
        tensors = tuple(f"{before}.experts.{expert}.{projection}" for expert in range(shape[0]))
        return replace(spec, tensors=tensors, stacked=True)
    return spec


def _mixer(config: ModelConfig, kind: LayerKind) -> dict[str, Shape]:
    """Return the weights of a mixer by their names in it, experts stacked."""
    hidden, heads = config.hidden_size, config.mamba_num_heads
    if kind == LayerKind.MAMBA:
        return {
            "in_proj.weight": (config.in_proj_dim, hidden),
            "conv1d.weight": (config.conv_dim, 1, config.conv_kernel),
            "conv1d.bias": (config.conv_dim,),
            "A_log": (heads,),
            "D": (heads,),
            "dt_bias": (heads,),
            "norm.weight": (config.d_inner,),
            "out_proj.weight": (hidden, config.d_inner),
        }
    if kind == LayerKind.ATTENTION:
        return {
            "q_proj.weight": (config.query_dim, hidden),
            "k_proj.weight": (config.key_value_dim, hidden),
            "v_proj.weight": (config.key_value_dim, hidden),
            "o_proj.weight": (hidden, config.query_dim),
        }
    if kind == LayerKind.MOE:
        experts, shared = config.n_routed_experts, config.moe_shared_expert_intermediate_size
        width = config.moe_intermediate_size
        return {
            "gate.weight": (experts, hidden),
            "gate.e_score_correction_bias": (experts,),
            "experts.up_proj.weight": (experts, width, hidden),
            "experts.down_proj.weight": (experts, hidden, width),
            "shared_experts.up_proj.weight": (shared, hidden),
            "shared_experts.down_proj.weight": (hidden, shared),
        }
    return {
        "up_proj.weight": (config.intermediate_size, hidden),
        "down_proj.weight": (hidden, config.intermediate_size),
    }
