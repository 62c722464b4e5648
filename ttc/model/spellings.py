"""The spellings of `config.json`: of one configuration there are several, all read by transformers' class.

transformers 5 saves the layers as a list of words, `layers_block_type`, where a checkpoint was published with
`hybrid_override_pattern`, a letter for each; both the words and other keys have older names.
"""

from collections.abc import Mapping
from typing import Any

from ttc.errors import CheckpointError
from ttc.formats.strictjson import quoted

__all__ = ["PATTERN", "usual_spelling"]

PATTERN = "hybrid_override_pattern"
_LISTS = ("layers_block_type", "layer_types")
_LETTERS = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "moe": "E",
    "mlp": "-",
}
# Other name → the one used here. transformers lets the other one win.
_OTHER_NAMES = {
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_dt_limit": "time_step_limit",
    "mamba_conv_bias": "use_conv_bias",
    "num_local_experts": "n_routed_experts",
    "dtype": "torch_dtype",
}
_MAX_LAYERS = 4096


def usual_spelling(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the names that `ttc.model.config` reads.

    Raises:
        CheckpointError: two spellings of one thing say different things, or a layer's word is unknown.
    """
    found = {key: value for key, value in config.items() if key not in (*_LISTS, *_OTHER_NAMES)}
    for other, name in _OTHER_NAMES.items():
        if other in config:
            _refuse_difference(name, config.get(name), other, config[other])
            found[name] = config[other]
    for key in _LISTS:
        if config.get(key) is not None:
            pattern = _pattern(key, config[key])
            _refuse_difference(PATTERN, found.get(PATTERN), key, pattern)
            found[PATTERN] = pattern
    if found.get("num_key_value_heads", 0) is None:
        found["num_key_value_heads"] = found.get("num_attention_heads")
    return found


def _pattern(key: str, words: object) -> str:
    """Return the letters of a list of layers."""
    if not isinstance(words, list) or len(words) > _MAX_LAYERS:
        raise CheckpointError(f"{key} is {quoted(words)}, a list of up to {_MAX_LAYERS} layers is due")
    for index, word in enumerate(words):
        if not isinstance(word, str) or word not in _LETTERS:
            known = ", ".join(_LETTERS)
            raise CheckpointError(f"{key} has {quoted(word)} for layer {index}; known: {known}")
    return "".join(_LETTERS[word] for word in words)


def _refuse_difference(first: str, one: object, second: str, other: object) -> None:
    if one is not None and one != other:
        raise CheckpointError(
            f"{first} is {quoted(one)}, but {second}, another name for it, says {quoted(other)}"
        )
