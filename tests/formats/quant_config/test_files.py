"""Which modules are quantised, and how: what the files of ModelOpt and compressed-tensors say."""

import json

import pytest

from tests.support.quantised import FOLDER
from ttc.errors import CheckpointError
from ttc.formats.quant_config.files import QUANT_FILE, read_scheme
from ttc.formats.quant_config.patterns import Patterns


def scheme(tmp_path, modelopt=None, config=None):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config} if config else {}))
    if modelopt is not None:
        (tmp_path / QUANT_FILE).write_text(json.dumps({"quantization": modelopt}))
    return read_scheme(tmp_path)


def group(weights, **more):
    return {"weights": {"symmetric": True} | weights, "targets": ["Linear"]} | more


def compressed(fmt, weights, **more):
    return {
        "quant_method": "compressed-tensors",
        "format": fmt,
        "config_groups": {"group_0": group(weights)},
        "ignore": ["lm_head"],
    } | more


FP8 = {"type": "float", "num_bits": 8, "strategy": "channel"}
INT4 = {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 32}


@pytest.mark.parametrize(
    ("entries", "name", "entry"),
    [
        (["a.b"], "a.b", "a.b"),
        (["a.b"], "a.b.c", "a.b"),
        (["a.b"], "a.bc", None),
        (["a.layers.0*"], "a.layers.0.mixer.up_proj", "a.layers.0*"),
        (["a.layers.0*"], "a.layers.1", None),
        (["*"], "anything", "*"),
        (["a.*.gate"], "a.layers.3.mixer.gate", "a.*.gate"),
        (["a.*.gate", "*mixer*proj"], "a.layers.3.mixer.up_proj", "*mixer*proj"),
        (["ab*ba"], "aba", None),
        (["a*b*c"], "axxbc", "a*b*c"),
        (["a*b*c"], "acb", None),
        ([r"re:.*mixer\.gate$"], "a.mixer.gate", r"re:.*mixer\.gate$"),
        ([r"re:.*mixer\.gate$"], "a.mixer.gates", None),
        (["re:lm_head"], "x.lm_head", None),  # from the start of the name
    ],
)
def test_patterns(entries, name, entry):
    assert Patterns(entries, "x").match([name]) == entry


@pytest.mark.parametrize("entry", ["re:(a+)+b", "re:(a|b)*", "re:" + ".*" * 5, "re:(?:a)", "re:" + "a" * 301])
def test_an_expression_that_could_take_for_ever_is_refused(entry):
    with pytest.raises(CheckpointError, match="could take for ever"):
        Patterns([entry], "x")
    with pytest.raises(CheckpointError, match="no regular expression"):
        Patterns(["re:[a"], "x")


@pytest.mark.parametrize(
    ("algorithm", "layout"),
    [
        ("FP8", "fp8"),
        ("FP8_PER_CHANNEL_PER_TOKEN", "fp8"),
        ("NVFP4", "nvfp4"),
        ("W4A16_NVFP4", "nvfp4"),
        ("MXFP4", "mxfp4"),
        ("W8A16", "int8"),
        ("W4A16", "int4"),
    ],
)
def test_algorithms_of_modelopt(tmp_path, algorithm, layout):
    found = scheme(tmp_path, {"quant_algo": algorithm, "exclude_modules": ["lm_head", "a.layers.0*"]})
    assert found.layout_of(["a.layers.1.up_proj"]) == layout
    assert found.excluded.match(["a.layers.0.up_proj"]) == "a.layers.0*"
    assert found.algorithm == algorithm


def test_mixed_precision(tmp_path):
    layers = {
        "a.layers.0.in_proj": {"quant_algo": "FP8"},
        "a.layers.1.experts*": {"quant_algo": "NVFP4", "group_size": 16},
    }
    found = scheme(tmp_path, {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    modules = ("a.layers.0.in_proj", "a.layers.1.experts.3.up_proj", "a.layers.2.in_proj")
    assert [found.layout_of([module]) for module in modules] == ["fp8", "nvfp4", None]


@pytest.mark.parametrize(
    ("weights", "fmt", "layout"),
    [
        (FP8, "float-quantized", "fp8"),
        (FP8 | {"strategy": "tensor"}, "naive-quantized", "fp8"),
        (FP8 | {"type": "int"}, "int-quantized", "int8"),
        (INT4, "pack-quantized", "int4-ct"),
        (INT4 | {"group_size": 128}, "pack-quantized", "int4-ct"),
        (
            {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16},
            "nvfp4-pack-quantized",
            "nvfp4-ct",
        ),
    ],
)
def test_formats_of_compressed_tensors(tmp_path, weights, fmt, layout):
    found = scheme(tmp_path, config=compressed(fmt, weights))
    assert found.layout_of(["a.up_proj"]) == layout
    assert found.excluded.match(["lm_head"]) == "lm_head"


def test_groups_of_compressed_tensors_name_their_own_format(tmp_path):
    groups = {
        "experts": group(INT4, targets=[r"re:.*experts\.\d+\."], format="pack-quantized"),
        "rest": group(FP8, format="float-quantized"),
    }
    config = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    found = scheme(tmp_path, config=config)
    assert found.layout_of(["a.experts.3.up_proj"]) == "int4-ct"
    assert found.layout_of(["a.in_proj"]) == "fp8"


def test_both_files_name_one_algorithm(tmp_path):
    config = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["b"]}
    assert scheme(tmp_path, config=config).excluded.match(["b"]) == "b"
    both = scheme(tmp_path, {"quant_algo": "FP8", "exclude_modules": ["a"]}, config)
    assert both.excluded.match(["a"])
    assert both.where.endswith("hf_quant_config.json and config.json")
    with pytest.raises(CheckpointError, match=r"says 'NVFP4', but .*config.json.* 'FP8'; delete the one"):
        scheme(tmp_path, {"quant_algo": "NVFP4"}, config)


def test_a_plain_checkpoint_has_no_scheme(tmp_path):
    assert scheme(tmp_path) is None
    assert read_scheme(FOLDER / "tiny_fp8").algorithm == "FP8"
    assert read_scheme(FOLDER / "tiny_nvfp4").algorithm == "NVFP4"


@pytest.mark.parametrize(
    ("modelopt", "message"),
    [
        ({"quant_algo": "INT4_AWQ"}, "'INT4_AWQ' is not read: it scales the activations.*`ttc quantize`"),
        ({"quant_algo": "W4A8_AWQ"}, "pre_quant_scale"),
        ({"quant_algo": "W8A8_SQ_PER_CHANNEL"}, "pre_quant_scale"),
        ({"quant_algo": "FP8", "pre_quant_scale": True}, "pre_quant_scale is true"),
        ({"quant_algo": "FP8_PB_WO"}, "blocks of two dimensions"),
        ({"quant_algo": "W3A16_TERNARY"}, "'W3A16_TERNARY' is not known; known: FP8, NVFP4, MXFP4"),
        ({"quant_algo": None}, "quant_algo None is not known"),
        ({"quant_algo": ["FP8"]}, "is not known"),
        ({"quant_algo": "NVFP4", "group_size": 32}, "NVFP4 with group_size 32 is not read, 16 is"),
        ({"quant_algo": "FP8", "exclude_modules": "lm_head"}, "'exclude_modules' is 'lm_head', a list"),
        ({"quant_algo": "MIXED_PRECISION"}, "quantized_layers is None"),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "X"}}},
            "'a': quant_algo 'X'",
        ),
        ([], "'quantization' is"),
    ],
)
def test_what_modelopt_says_and_is_not_read(tmp_path, modelopt, message):
    with pytest.raises(CheckpointError, match=rf"hf_quant_config.json.*{message}"):
        scheme(tmp_path, modelopt)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "gptq"}, "GPTQ orders weights by g_idx .*compressed-tensors' own converters"),
        ({"quant_method": "awq"}, "AWQ packs weights in an order of its own"),
        ({"quant_method": "fp8"}, "blocks of two dimensions"),
        (
            {"quant_method": "bitsandbytes"},
            "'bitsandbytes' is not read: 'modelopt' and 'compressed-tensors' are",
        ),
        ({"quant_method": 3}, "3 is not read"),
        ("fp8", "is 'fp8', an object is due"),
        (compressed("marlin-24", INT4), "format 'marlin-24' with 4 bit 'int' is not read"),
        (compressed("float-quantized", FP8 | {"strategy": "block"}), "strategy 'block' of float-quantized"),
        (compressed("pack-quantized", INT4 | {"symmetric": False}), "zero points"),
        (compressed("pack-quantized", INT4 | {"actorder": "group"}), "g_idx"),
        (
            compressed("pack-quantized", INT4 | {"group_size": 48}),
            "group_size 48 is not read, multiples of 32",
        ),
        (compressed("int-quantized", FP8, config_groups={}), "config_groups is {}"),
        (compressed("int-quantized", FP8, config_groups={"g": 3}), "'g' is 3"),
        (compressed("int-quantized", FP8, sparsity_config={"format": "sparse"}), "sparsity_config"),
    ],
)
def test_what_config_json_says_and_is_not_read(tmp_path, config, message):
    with pytest.raises(CheckpointError, match=f"quantization_config.*{message}"):
        scheme(tmp_path, config=config)


def both(folder, one, other):
    """Return what two files say together."""
    (folder / QUANT_FILE).write_text(json.dumps({"quantization": one}))
    config = {"quantization_config": {"quant_method": "modelopt"} | other}
    (folder / "config.json").write_text(json.dumps(config))
    return read_scheme(folder)


def test_what_either_file_excludes_is_excluded(tmp_path):
    found = both(
        tmp_path,
        {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
        {"quant_algo": "NVFP4", "ignore": ["a.layers.4*"]},
    )
    assert found.excluded.match(["lm_head"])
    assert found.excluded.match(["a.layers.4.mixer"])


def test_files_that_give_a_module_two_formats_are_refused(tmp_path):
    mixed = [
        {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": algorithm}}}
        for algorithm in ("NVFP4", "FP8")
    ]
    with pytest.raises(CheckpointError, match="give modules other formats; delete the one that is stale"):
        both(tmp_path, *mixed)


def test_a_transform_of_the_activations_is_refused(tmp_path):
    weights = {"type": "float", "num_bits": 8, "strategy": "channel"}
    config = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
    }
    for more, passes in (
        ({}, True),
        ({"sparsity_config": {"format": "dense"}}, True),
        ({"transform_config": {"r1": {}}}, False),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config | more}))
        if passes:
            assert read_scheme(tmp_path) is not None
        else:
            with pytest.raises(CheckpointError, match=r"transform_config .* is not read"):
                read_scheme(tmp_path)
