"""The model's configuration: what `config.json` says that changes the arithmetic, checked once and then
trusted.

Key names are those of the Hugging Face file as it was published (`ttc.model.spellings` knows others);
`pattern` is its `hybrid_override_pattern`, `dtype` its `torch_dtype`. Keys of layer kinds that the pattern
does not use are zero here, whatever the file says.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ttc.errors import BundleError, CheckpointError
from ttc.formats.strictjson import Fields, quoted
from ttc.model.spellings import PATTERN, usual_spelling

__all__ = ["TIME_FEATURES", "LayerKind", "ModelConfig", "kind_label"]


class LayerKind(StrEnum):
    """The mixer of a layer. The value is its letter in `hybrid_override_pattern`."""

    MAMBA = "M"
    ATTENTION = "*"
    MOE = "E"
    MLP = "-"

    @property
    def scope(self) -> str:
        """The word for it in the names of a graph's nodes ("layers.3.moe/…"), and in transformers."""
        return self.name.lower()

    @property
    def label(self) -> str:
        """The name for people."""
        return _LABELS[self]


_LABELS = {
    LayerKind.MAMBA: "Mamba-2",
    LayerKind.ATTENTION: "attention",
    LayerKind.MOE: "mixture of experts",
    LayerKind.MLP: "plain MLP",
}

# Width of the sinusoid that the denoiser's time embedding starts from: 128 cosines, then 128 sines.
TIME_FEATURES = 256

# Sizes by the layer kind that needs them ("" for every model), with their smallest and largest valid values.
_SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "": {"hidden_size": (1, 2**17), "vocab_size": (2, 2**24), "max_position_embeddings": (1, 2**31 - 1)},
    LayerKind.MAMBA: {
        "mamba_num_heads": (1, 2**14),
        "mamba_head_dim": (1, 2**12),
        "n_groups": (1, 2**14),
        "ssm_state_size": (1, 2**14),
        "conv_kernel": (2, 64),
    },
    LayerKind.ATTENTION: {
        "num_attention_heads": (1, 2**12),
        "num_key_value_heads": (1, 2**12),
        "head_dim": (1, 2**12),
    },
    LayerKind.MOE: {
        "n_routed_experts": (2, 2**14),
        "num_experts_per_tok": (1, 2**14),
        "moe_intermediate_size": (1, 2**17),
        "moe_shared_expert_intermediate_size": (1, 2**17),
        "n_group": (1, 2**13),
        "topk_group": (1, 2**13),
    },
    LayerKind.MLP: {"intermediate_size": (1, 2**20)},
}
_MAX_LAYERS = 4096
_MAX_EOS_IDS = 1024

# Keys that would change the arithmetic, with the one value that is implemented and that an absent key means.
_ONLY: dict[str, object] = {
    "mamba_hidden_act": "silu",
    "mlp_hidden_act": "relu2",
    "attention_bias": False,
    "use_bias": False,
    "mlp_bias": False,
    "mamba_proj_bias": False,
    "use_conv_bias": True,
    "tie_word_embeddings": False,
    "residual_in_fp32": False,
    "moe_latent_size": None,
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of one TwoTower model; both towers share them.

    Raises:
        CheckpointError: a value that no model can have.
    """

    pattern: str
    hidden_size: int
    vocab_size: int
    layer_norm_epsilon: float
    mamba_num_heads: int
    mamba_head_dim: int
    n_groups: int
    ssm_state_size: int
    conv_kernel: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    moe_shared_expert_intermediate_size: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    intermediate_size: int
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    dtype: str
    mask_token_id: int = 3

    def __post_init__(self) -> None:
        _check_pattern(self.pattern)
        for kind, sizes in _SIZES.items():
            present = kind in self.pattern
            for key, (low, high) in sizes.items():
                _check_integer(key, getattr(self, key), *((low, high) if present else (0, 0)))
        _check_number("layer_norm_epsilon", self.layer_norm_epsilon, 1e-12, 1.0)
        if type(self.norm_topk_prob) is not bool:
            raise CheckpointError(f"norm_topk_prob is {quoted(self.norm_topk_prob)}, true or false is due")
        _check_number("routed_scaling_factor", self.routed_scaling_factor, 0.0, 1e6)
        if not isinstance(self.dtype, str) or not 0 < len(self.dtype) <= 32:
            raise CheckpointError(
                f"torch_dtype is {quoted(self.dtype)}, the name of a dtype (like 'bfloat16') is due"
            )
        self._check_divisions()
        self._check_token_ids()

    def _check_divisions(self) -> None:
        for whole, part in (
            ("mamba_num_heads", "n_groups"),
            ("num_attention_heads", "num_key_value_heads"),
            ("n_routed_experts", "n_group"),
        ):
            count, divisor = getattr(self, whole), getattr(self, part)
            if divisor and count % divisor:
                raise CheckpointError(f"{whole} = {count} is not divisible by {part} = {divisor}")
        if LayerKind.MOE not in self.pattern:
            return
        if self.n_routed_experts // self.n_group < 2:
            raise CheckpointError(
                f"n_routed_experts = {self.n_routed_experts} in n_group = {self.n_group} groups leaves "
                "fewer than two experts per "
                "group; a group's score is the sum of its two best"
            )
        for part, whole in (("num_experts_per_tok", "n_routed_experts"), ("topk_group", "n_group")):
            if getattr(self, part) > getattr(self, whole):
                raise CheckpointError(
                    f"{part} = {getattr(self, part)} is more than {whole} = {getattr(self, whole)}"
                )

    def _check_token_ids(self) -> None:
        last = self.vocab_size - 1
        if not isinstance(self.eos_token_ids, tuple) or len(self.eos_token_ids) > _MAX_EOS_IDS:
            raise CheckpointError(
                f"eos_token_id is {quoted(self.eos_token_ids)}, an id or a short list of ids is due"
            )
        for key in ("bos_token_id", "pad_token_id"):
            if getattr(self, key) is not None:
                _check_integer(key, getattr(self, key), 0, last)
        for token in self.eos_token_ids:
            _check_integer("eos_token_id", token, 0, last)
        _check_integer("mask_token_id", self.mask_token_id, 0, last)

    @property
    def num_layers(self) -> int:
        """Layers of one tower."""
        return len(self.pattern)

    @property
    def d_inner(self) -> int:
        """Inner width of a Mamba layer."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of a Mamba layer's convolution: x, then B and C of every group."""
        return self.d_inner + 2 * self.n_groups * self.ssm_state_size

    @property
    def in_proj_dim(self) -> int:
        """Rows of a Mamba layer's in_proj: z, then the convolution's channels, then dt."""
        return self.d_inner + self.conv_dim + self.mamba_num_heads

    @property
    def query_dim(self) -> int:
        """Width of all query heads together; need not equal hidden_size."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_dim(self) -> int:
        """Width of all key heads (or all value heads) together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kind of every layer, in order."""
        return tuple(map(LayerKind, self.pattern))

    def layers_of(self, kind: LayerKind) -> tuple[int, ...]:
        """Return the indices of the layers of this kind."""
        return tuple(i for i, other in enumerate(self.pattern) if other == kind)

    @classmethod
    def from_hf(
        cls,
        config: Mapping[str, Any],
        generation_config: Mapping[str, Any] | None = None,
        where: str = "config.json",
    ) -> "ModelConfig":
        """Read the parsed `config.json`; keys that do not change the arithmetic are ignored.

        Args:
            config: of `config.json`.
            generation_config: of `generation_config.json`, whose eos goes before that of `config`.
            where: what messages call the file.

        Raises:
            CheckpointError: a key is missing, or its value is one that no model can have or that is not
                implemented.
        """
        try:
            return cls(**_fields_from_hf(config, generation_config or {}))
        except CheckpointError as fault:
            raise CheckpointError(f"{where}: {fault}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a bundle's manifest; `from_dict` reads it back."""
        return dataclasses.asdict(self) | {"eos_token_ids": list(self.eos_token_ids)}

    @classmethod
    def from_dict(cls, value: object, where: str = "model") -> "ModelConfig":
        """Read what `to_dict` wrote; raise `BundleError` for unknown, missing and invalid keys."""
        fields = Fields(value, where, BundleError)
        known: dict[str, Any] = {field.name: fields.take(field.name) for field in dataclasses.fields(cls)}
        fields.end()
        if isinstance(known["eos_token_ids"], list):
            known["eos_token_ids"] = tuple(known["eos_token_ids"])
        try:
            return cls(**known)
        except CheckpointError as fault:
            raise BundleError(f"{where}: {fault}") from None


def kind_label(kind: str) -> str:
    """Return the name of a layer kind's letter; any other text as it is."""
    return _LABELS[LayerKind(kind)] if kind in set(LayerKind) else kind


def _fields_from_hf(written: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    config = usual_spelling(written)
    if PATTERN not in config:
        raise CheckpointError(
            f"the key {PATTERN!r} is missing: this is not the configuration of a NemotronH TwoTower model"
        )
    pattern = config[PATTERN]
    _check_pattern(pattern)
    if config.get("num_hidden_layers", len(pattern)) != len(pattern):
        raise CheckpointError(
            f"num_hidden_layers is {quoted(config['num_hidden_layers'])}, but hybrid_override_pattern has "
            f"{len(pattern)} letters"
        )
    for key, only in _ONLY.items():
        value = config.get(key, only)
        if type(value) is not type(only) or value != only:
            raise CheckpointError(f"{key} is {quoted(value)}; only {only!r} is implemented")
    _check_time_step_limit(config.get("time_step_limit"))

    needed = {key: kind in pattern for kind, sizes in _SIZES.items() for key in sizes}
    needed |= {
        "layer_norm_epsilon": True,
        "norm_topk_prob": LayerKind.MOE in pattern,
        "routed_scaling_factor": LayerKind.MOE in pattern,
    }
    missing = [key for key, present in needed.items() if present and key not in config]
    dtype = config.get("torch_dtype")
    if dtype is None:
        missing.append("torch_dtype")
    if missing:
        raise CheckpointError(
            f"{len(missing)} key(s) missing that the pattern {quoted(pattern)} needs: {', '.join(missing)}"
        )
    fields: dict[str, Any] = {key: config[key] if present else 0 for key, present in needed.items()}
    if LayerKind.MOE not in pattern:
        fields |= {"norm_topk_prob": False, "routed_scaling_factor": 0.0}
    for key in ("layer_norm_epsilon", "routed_scaling_factor"):
        # A whole number may be written as an integer; one beyond every float stays and is refused later.
        if type(fields[key]) is int and abs(fields[key]) < 2**53:
            fields[key] = float(fields[key])

    eos = generation.get("eos_token_id")
    eos = config.get("eos_token_id") if eos is None else eos
    several = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if len(several) > _MAX_EOS_IDS:
        raise CheckpointError(f"eos_token_id has {len(several)} ids; valid: up to {_MAX_EOS_IDS}")
    return fields | {
        "pattern": pattern,
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_ids": tuple(token for i, token in enumerate(several) if token not in several[:i]),
        "pad_token_id": config.get("pad_token_id"),
        "mask_token_id": config.get("mask_token_id", 3),
        "dtype": dtype,
    }


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= _MAX_LAYERS:
        raise CheckpointError(
            f"hybrid_override_pattern is {quoted(pattern)}, a string of 1 to {_MAX_LAYERS} layer letters "
            "is due"
        )
    for index, letter in enumerate(pattern):
        if letter not in set(LayerKind):
            kinds = ", ".join(f"{known} ({known.label})" for known in LayerKind)
            raise CheckpointError(
                f"hybrid_override_pattern has the unknown letter {letter!r} for layer {index}; known: {kinds}"
            )


def _check_time_step_limit(limit: object) -> None:
    """Raise unless the limits do not limit: dt is not clamped.

    An infinity may be written as transformers 5 does, {"__float__": "Infinity"}.
    """
    if limit is None:
        return
    low, high = limit if isinstance(limit, list | tuple) and len(limit) == 2 else (None, None)
    if isinstance(high, Mapping):
        high = float("inf") if high.get("__float__") == "Infinity" else None
    if type(low) not in (int, float) or low != 0 or type(high) is not float or high != float("inf"):
        raise CheckpointError(
            f"time_step_limit is {quoted(limit)}; only [0, Infinity] (no limit) is implemented"
        )


def _check_integer(key: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        expected = f"an integer from {low} to {high}" if low < high else str(low)
        raise CheckpointError(f"{key} is {quoted(value)}, {expected} is due")


def _check_number(key: str, value: object, low: float, high: float) -> None:
    if type(value) is not float or not low <= value <= high:
        raise CheckpointError(f"{key} is {quoted(value)}, a number from {low} to {high} is due")
