"""Names of prepared weights, and what they mean."""

import numpy as np
import pytest

from ttc.errors import BundleError
from ttc.formats.manifest import WeightSpec
from ttc.formats.prepared_weights import PreparedWeight

SPEC = WeightSpec("w", ("w",), False, (2, 3, 4), "float16", ("context",))


def test_a_name_says_what_was_done():
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4) / 8
    prepared = PreparedWeight.parse("w|transpose(2,0,1)|float32|exp|neg")
    assert (prepared.weight, prepared.name) == ("w", "w|transpose(2,0,1)|float32|exp|neg")
    made, spec = prepared.apply(array), prepared.spec(SPEC)
    np.testing.assert_array_equal(made, -np.exp(array.transpose(2, 0, 1).astype(np.float32)))
    assert made.flags.c_contiguous
    assert (made.shape, made.dtype) == (spec.shape, spec.dtype) == ((4, 2, 3), "float32")
    plain = PreparedWeight.parse("w")
    assert plain.steps == ()
    assert plain.spec(SPEC) == SPEC


@pytest.mark.parametrize(
    "name", ["w|", "w|sqrt", "w|transpose", "w|transpose()", "w|transpose(1,0", "w|exp|?"]
)
def test_steps_that_are_none(name):
    with pytest.raises(BundleError, match="is no step that ttc knows; build again"):
        PreparedWeight.parse(name)


@pytest.mark.parametrize("axes", ["1,0", "0,0,1", "0,1,3", "0,1,2,3"])
def test_axes_that_do_not_fit(axes):
    with pytest.raises(BundleError, match=r"but 'w' is \[2, 3, 4\]; build again"):
        PreparedWeight.parse(f"w|transpose({axes})").spec(SPEC)
