"""The list of the graphs' inputs and outputs, and who must agree with it."""

import dataclasses

from tests.support.golden import golden
from ttc.model import graphs
from ttc.model.config import LayerKind
from ttc.runtime.interface.backend import StepInputs, StepOutputs


def test_state_is_listed_by_layer_and_splits_in_two():
    config = golden("tiny_b").config
    state = [tensor.name for tensor in graphs.state_tensors(config)]
    assert state == [name for i in range(config.num_layers) for name in graphs.layer_names(config, i)]
    mamba = [tensor.name for tensor in graphs.mamba_state(config)]
    cache = [tensor.name for tensor in graphs.kv_cache(config)]
    assert sorted(mamba + cache) == sorted(state)
    assert mamba == [
        f"{n}.{i}" for i in config.layers_of(LayerKind.MAMBA) for n in ("conv_state", "ssm_state")
    ]
    assert cache == [
        f"{n}.{i}" for i in config.layers_of(LayerKind.ATTENTION) for n in ("k_cache", "v_cache")
    ]


def test_a_blocks_rows_follow_the_caches():
    config = golden("tiny_b").config
    rows = graphs.new_kv(config)
    assert [tensor.name for tensor in rows] == [
        tensor.name.replace("_cache", "_rows") for tensor in graphs.kv_cache(config)
    ]
    sizes = {"B": 2, "L": 5}
    assert {tensor.sizes(sizes) for tensor in rows} == {(2, config.num_key_value_heads, 5, config.head_dim)}


def test_the_steps_dataclasses_have_its_tensors_in_order():
    for listed, face in ((graphs.STEP_INPUTS, StepInputs), (graphs.STEP_OUTPUTS, StepOutputs)):
        assert [tensor.name for tensor in listed] == [field.name for field in dataclasses.fields(face)]


def test_compute_stands_for_the_bundles_dtype():
    conv, ssm = graphs.layer_state(golden("tiny_b").config, LayerKind.MAMBA)
    assert (conv.dtype_in("bfloat16"), ssm.dtype_in("bfloat16")) == ("bfloat16", "float32")
    assert conv.typed("float16").dtype == "float16"
