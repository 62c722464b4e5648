"""Models for the tests of `ttc build`, and what those do with files."""

import onnx
import onnx.parser

__all__ = ["MODEL", "content", "flip", "write_model"]

MODEL = """<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }"""


def write_model(path, text=MODEL):
    """Write the model that this text is; return the path."""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def content(folder):
    """Return name → bytes of every file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path, index=-1):
    """Flip one bit of the byte at this index."""
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(bytes(data))
