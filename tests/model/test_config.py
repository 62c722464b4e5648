"""`ModelConfig`: what it takes from config.json, what it refuses, and that the manifest's form is
lossless.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.errors import BundleError, CheckpointError
from ttc.model.config import LayerKind, ModelConfig

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GOLDEN / name / "config.json").read_text())
    return config


def test_golden_sizes() -> None:
    config = ModelConfig.from_hf(golden("tiny_b"))
    assert config.pattern == "*EM-ME*-M"
    assert (config.num_layers, config.hidden_size, config.vocab_size, config.dtype) == (9, 48, 96, "bfloat16")
    # 6 heads of 8; x, B and C of one group with state 12; z, conv channels and dt.
    assert (config.d_inner, config.conv_dim, config.in_proj_dim) == (48, 72, 126)
    assert (config.query_dim, config.key_value_dim) == (96, 16)
    assert config.layers_of(LayerKind.MAMBA) == (2, 4, 8)
    assert config.layers_of(LayerKind.MOE) == (1, 5)
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id, config.mask_token_id) == (
        1,
        (2,),
        0,
        3,
    )


def test_eos_of_generation_config_wins() -> None:
    config = golden("tiny_a") | {"eos_token_id": 5}
    assert ModelConfig.from_hf(config, {"eos_token_id": [2, 11, 2]}).eos_token_ids == (2, 11)
    assert ModelConfig.from_hf(config, {"eos_token_id": 7}).eos_token_ids == (7,)
    assert ModelConfig.from_hf(config, {}).eos_token_ids == (5,)
    assert ModelConfig.from_hf(config | {"eos_token_id": None}, None).eos_token_ids == ()


def test_only_the_keys_of_present_kinds_are_needed() -> None:
    config = golden("tiny_a") | {"hybrid_override_pattern": "M-M", "num_hidden_layers": 3}
    for key in (
        "n_routed_experts",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "norm_topk_prob",
        "head_dim",
    ):
        del config[key]
    config["n_group"] = "nonsense that nothing reads"
    found = ModelConfig.from_hf(config)
    assert (found.n_routed_experts, found.n_group, found.head_dim, found.routed_scaling_factor) == (
        0,
        0,
        0,
        0.0,
    )
    assert found.d_inner == 128


def test_missing_keys_are_told_together() -> None:
    config = golden("tiny_a")
    del config["head_dim"], config["n_groups"], config["torch_dtype"]
    with pytest.raises(CheckpointError, match=r"x/config.json: 3 key.*n_groups, head_dim, torch_dtype"):
        ModelConfig.from_hf(config, where="x/config.json")
    with pytest.raises(CheckpointError, match="hybrid_override_pattern' is missing"):
        ModelConfig.from_hf({"model_type": "llama"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mamba_hidden_act", "gelu"),
        ("mlp_hidden_act", "silu"),
        ("attention_bias", True),
        ("use_bias", True),
        ("mlp_bias", True),
        ("mamba_proj_bias", True),
        ("mamba_proj_bias", 0),
        ("use_conv_bias", False),
        ("tie_word_embeddings", True),
        ("residual_in_fp32", True),
        ("moe_latent_size", 1024),
        ("time_step_limit", [0.001, math.inf]),
        ("time_step_limit", [0.0, 0.1]),
        ("time_step_limit", [False, math.inf]),
        ("time_step_limit", math.inf),
        ("hybrid_override_pattern", "MEM*EMX*"),
        ("hybrid_override_pattern", ""),
        ("hybrid_override_pattern", ["M", "E"]),
        ("hybrid_override_pattern", "MEM*EME"),
        ("num_hidden_layers", 7),
        ("hidden_size", 0),
        ("hidden_size", -64),
        ("hidden_size", 64.0),
        ("hidden_size", True),
        ("hidden_size", "64"),
        ("hidden_size", None),
        ("hidden_size", 2**40),
        ("vocab_size", 10**30),
        ("conv_kernel", 1),
        ("n_groups", 3),
        ("num_key_value_heads", 3),
        ("n_group", 3),
        ("n_group", 8),
        ("topk_group", 2),
        ("num_experts_per_tok", 9),
        ("n_routed_experts", 1),
        ("norm_topk_prob", 1),
        ("layer_norm_epsilon", math.nan),
        ("layer_norm_epsilon", 0.0),
        ("layer_norm_epsilon", "1e-5"),
        ("routed_scaling_factor", math.inf),
        ("routed_scaling_factor", math.nan),
        ("routed_scaling_factor", 10**400),
        ("routed_scaling_factor", True),
        ("eos_token_id", 128),
        ("eos_token_id", -1),
        ("eos_token_id", [2, None]),
        ("eos_token_id", "2"),
        ("bos_token_id", 2.0),
        ("pad_token_id", 4096),
        ("mask_token_id", 128),
        ("torch_dtype", ""),
        ("torch_dtype", 16),
    ],
)
def test_refused_values(key: str, value: object) -> None:
    word = "hybrid_override_pattern" if key == "num_hidden_layers" else key
    with pytest.raises(CheckpointError, match=word) as caught:
        ModelConfig.from_hf(golden("tiny_a") | {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [None, [0.0, math.inf], [0, math.inf], [0.0, {"__float__": "Infinity"}]])
def test_no_time_step_limit(limit: object) -> None:
    assert ModelConfig.from_hf(golden("tiny_a") | {"time_step_limit": limit}) == ModelConfig.from_hf(
        golden("tiny_a")
    )


def test_unknown_letter_is_named_with_its_layer() -> None:
    with pytest.raises(CheckpointError, match=r"unknown letter 'X' for layer 6; known: M \(Mamba-2\)"):
        ModelConfig.from_hf(golden("tiny_a") | {"hybrid_override_pattern": "MEM*EMX*"})


def test_newer_dtype_key() -> None:
    config = golden("tiny_a")
    config["dtype"] = config.pop("torch_dtype")
    assert ModelConfig.from_hf(config).dtype == "float32"


@pytest.mark.parametrize("name", ["tiny_a", "tiny_b", "tiny_c"])
def test_other_spellings(name: str) -> None:
    published = golden(name)
    other = dict(published)
    words = {"M": "mamba", "*": "full_attention", "E": "moe", "-": "mlp"}
    other["layers_block_type"] = [words[letter] for letter in other.pop("hybrid_override_pattern")]
    for new, old in (
        ("mamba_n_groups", "n_groups"),
        ("mamba_d_conv", "conv_kernel"),
        ("num_local_experts", "n_routed_experts"),
        ("dtype", "torch_dtype"),
    ):
        if old in other:
            other[new] = other.pop(old)
    assert ModelConfig.from_hf(other) == ModelConfig.from_hf(published)
    other["layer_types"] = other.pop("layers_block_type")
    assert ModelConfig.from_hf(other) == ModelConfig.from_hf(published)
    # Said twice is no harm, said differently is.
    both = other | {"hybrid_override_pattern": published["hybrid_override_pattern"]}
    assert ModelConfig.from_hf(both) == ModelConfig.from_hf(published)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"layer_types": ["moe"]},
            "hybrid_override_pattern is '.*', but layer_types, another name for it, says",
        ),
        ({"layers_block_type": ["hyena"]}, "layers_block_type has 'hyena' for layer 0; known: mamba, linear"),
        ({"layers_block_type": "moe"}, "layers_block_type is 'moe', a list of up to 4096 layers is due"),
        ({"dtype": "float16"}, "torch_dtype is 'float32', but dtype, another name for it, says 'float16'"),
        ({"num_local_experts": 3}, "n_routed_experts is .*, but num_local_experts"),
    ],
)
def test_spellings_that_say_different_things(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        ModelConfig.from_hf(golden("tiny_a") | changes)


@pytest.mark.parametrize("name", ["tiny_a", "tiny_b", "tiny_c"])
def test_dict_round_trip_through_json(name: str) -> None:
    config = ModelConfig.from_hf(golden(name))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_from_dict_is_strict() -> None:
    good = ModelConfig.from_hf(golden("tiny_a")).to_dict()
    with pytest.raises(BundleError, match=r"here: 1 unknown key.*'colour'"):
        ModelConfig.from_dict(good | {"colour": 1}, "here")
    with pytest.raises(BundleError, match="'head_dim' is missing"):
        ModelConfig.from_dict({key: value for key, value in good.items() if key != "head_dim"})
    with pytest.raises(BundleError, match="JSON object"):
        ModelConfig.from_dict([good])
    with pytest.raises(BundleError, match="intermediate_size is 7, 0 is due"):
        ModelConfig.from_dict(good | {"intermediate_size": 7})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(golden("tiny_b"))), anything)
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: object) -> None:
    try:
        config = ModelConfig.from_hf(golden("tiny_b") | {key: value})
    except CheckpointError:
        return
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(st.sampled_from(sorted(ModelConfig.from_hf(golden("tiny_b")).to_dict())), anything)
def test_any_value_in_a_manifest_is_taken_or_refused(key: str, value: object) -> None:
    try:
        ModelConfig.from_dict(ModelConfig.from_hf(golden("tiny_b")).to_dict() | {key: value})
    except BundleError:
        return
