"""What calls cost: the prediction and the picture; nothing is timed."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks.call_costs import Case, plot, with_prediction
from tests.support.golden import golden

LIMITS = {"flops_per_second": 1e9, "bytes_per_second": 1e9}


def test_prediction_begins_where_it_was_measured_and_grows() -> None:
    cases: list[Case] = [(1, 64, 128), (1, 1024, 2048), (16, 64, 128)]
    measured = {case: {"AR step": 0.001, "denoise step": 0.002} for case in cases}
    first, longer, wider = with_prediction(golden("tiny_a").config, measured, LIMITS)
    assert first["predicted_ms"] == pytest.approx({"AR step": 1.0, "denoise step": 2.0})
    for name in measured[cases[0]]:
        assert longer["predicted_ms"][name] > first["predicted_ms"][name]
        assert wider["predicted_ms"][name] > first["predicted_ms"][name]
    assert wider["ms"] == {"AR step": 1.0, "denoise step": 2.0}
    lines = [line for line in ET.fromstring(plot([first, longer, wider])).iter() if "polyline" in line.tag]
    assert len(lines) == 8, "two calls, measured and predicted, in two diagrams"
