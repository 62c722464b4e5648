"""`caches_to_new_kv`: the keys and values that a block adds, in place of the caches that it adds them to."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.support.partitioned import feeds, run_whole
from ttc.errors import ExportError
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind
from ttc.model.rewrites import caches_to_new_kv


def test_a_cache_made_otherwise_is_refused(bundles):
    with Bundle.open(bundles("tiny_a")) as bundle:
        model = ir.load(bundle.graph_path("context"))
    (output, *_) = [value for value in model.graph.outputs if str(value.name).startswith("new_k_cache")]
    output.producer().op_type = "Add"
    with pytest.raises(ExportError, match=r"new_k_cache.* is made by Add; .* export the checkpoint again"):
        caches_to_new_kv(model)


@pytest.mark.parametrize("name", ["tiny_a", "tiny_c"])
def test_new_keys_and_values_are_what_was_scattered_into_the_caches(bundles, name):
    with Bundle.open(bundles(name)) as bundle:
        path, config = bundle.graph_path("context"), bundle.config
    whole, new_kv = ir.load(path), ir.load(path)
    assert caches_to_new_kv(new_kv)
    assert not caches_to_new_kv(new_kv), "a second run changes nothing"
    inputs = feeds(whole.graph, {}, config.vocab_size, seed=7)
    want, got = (run_whole(model, inputs, "DISABLE_ALL") for model in (whole, new_kv))
    caches = [output for output in want if "_cache." in output]
    assert len(caches) == 2 * config.layers.count(LayerKind.ATTENTION)
    assert not any("_cache." in output for output in got)
    L = inputs["input_ids"].shape[1]
    for output in caches:
        block = got.pop(output.replace("new_", "").replace("_cache.", "_rows."))
        for b, length in enumerate(inputs["lengths"]):
            np.testing.assert_array_equal(block[b], want[output][b, :, length : length + L], err_msg=output)
    assert got.keys() == want.keys() - set(caches)
    for output, array in got.items():
        np.testing.assert_array_equal(array, want[output], err_msg=output)
