"""The ops in ONNX: their parts, one after the other, on the rows' own states."""

from collections.abc import Mapping
from typing import Any

__all__ = ["mamba_long_mixer", "mamba_mixer", "mamba_reading"]

_BLOCK = "xbc, dt, conv_state, ssm_state, rows, conv_weight, conv_bias, dt_bias, a_log, d"
_OWN = """    own_conv = Gather (conv_state, rows)
    own_ssm = Gather (ssm_state, rows)
"""
_SCAN = """    y = ttc.MambaScan <G: int = @G> (activated, dt, own_ssm, dt_bias, a_log, d)
"""
_SCANNED = f"""{_OWN}    activated = ttc.MambaConv <W: int = @W> (xbc, own_conv, conv_weight, conv_bias)
{_SCAN}"""
_STATES = "new_conv_state, new_ssm_state"
_MOVED = f"""    {_STATES} = ttc.MambaAdvance <G: int = @G> (xbc, activated, dt, own_conv,
    own_ssm, dt_bias, a_log, commit_len)
"""


def mamba_reading(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MambaReading`; nothing in it depends on the model."""
    return f"\nMambaReading <G, W> ({_BLOCK}) => (y)\n{{\n{_SCANNED}}}\n"


def mamba_mixer(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MambaMixer`; nothing in it depends on the model."""
    return f"\nMambaMixer <G, W> ({_BLOCK}, commit_len) => (y, {_STATES})\n{{\n{_SCANNED}{_MOVED}}}\n"


def mamba_long_mixer(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MambaLongMixer`; nothing in it depends on the model."""
    inputs = "xbc, activated, dt, conv_state, ssm_state, rows, dt_bias, a_log, d, commit_len"
    return f"\nMambaLongMixer <G, W> ({inputs}) => (y, {_STATES})\n{{\n{_OWN}{_SCAN}{_MOVED}}}\n"
