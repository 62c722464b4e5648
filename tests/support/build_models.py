"""Models and files for the tests of `ttc build`."""

import onnx
import onnx.parser

__all__ = ["MODEL", "content", "flip", "write_model"]

MODEL = """<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }"""


def write_model(path, text=MODEL):
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
