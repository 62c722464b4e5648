"""The open inference protocol (KServe v2): tensors in JSON, or behind it as bytes, ↔ prompts and texts.

Inputs: `text_input` (BYTES) or `input_ids` (INT32, INT64; one prompt). Outputs: `text_output` (BYTES) and
`token_ids` (INT32, of one text). Options are request parameters, under the names of /v1/completions.
"""

import json
from typing import Any

import numpy as np

from ttc.errors import InputError
from ttc.formats.strictjson import quoted
from ttc.serving.wire.errors import FieldError
from ttc.serving.wire.fields import read_object

__all__ = ["OUTPUTS", "completion_of", "read_infer", "write_infer"]

OUTPUTS = ("text_output", "token_ids")
_INTEGERS: dict[object, np.dtype[Any]] = {"INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}


def read_infer(raw: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of a request and the bytes behind it.

    header_length: of the header Inference-Header-Content-Length, the size of the JSON; None for all.
    """
    if header_length is None:
        return read_object(raw), b""
    if not header_length.isdecimal() or len(header_length) > 18 or int(header_length) > len(raw):
        raise InputError(
            f"Inference-Header-Content-Length is {quoted(header_length)}; valid: the JSON's size"
        )
    return read_object(raw[: int(header_length)]), raw[int(header_length) :]


def completion_of(given: dict[str, Any], behind: bytes) -> dict[str, Any]:
    """Return the same request as a body of /v1/completions."""
    inputs = given.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise FieldError(
            "inputs is to hold one tensor: text_input (BYTES) or input_ids (INT32, INT64)", "inputs"
        )
    parameters = dict(_parameters(given))
    for name in ("binary_data_output", "sequence_id", "sequence_start", "sequence_end"):
        parameters.pop(name, None)
    return {**parameters, "prompt": _prompt(inputs[0], behind), "return_token_ids": True}


def _prompt(tensor: dict[str, Any], behind: bytes) -> Any:
    name, kind = tensor.get("name"), tensor.get("datatype")
    if (name, kind) != ("text_input", "BYTES") and (name != "input_ids" or kind not in _INTEGERS):
        raise FieldError(
            f"the input is {quoted(name)} of {quoted(kind)}; valid: text_input of BYTES, "
            "input_ids of INT32 or INT64",
            "inputs",
        )
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        data = tensor.get("data")
        if not isinstance(data, list):
            raise FieldError(f"the data of {name} is {quoted(data)}; valid: a list", "inputs")
        return _flat(data)
    if type(size) is not int or size != len(behind):
        raise FieldError(f"binary_data_size is {quoted(size)}, but {len(behind)} bytes follow", "inputs")
    if kind == "BYTES":
        return _texts(behind)
    if size % _INTEGERS[kind].itemsize:
        raise FieldError(f"{size} bytes are no whole number of {kind}", "inputs")
    return np.frombuffer(behind, _INTEGERS[kind]).tolist()


def _flat(data: list[Any]) -> list[Any]:
    """Return the elements of a tensor that is written in rows."""
    flat: list[Any] = []
    for item in data:
        flat.extend(item if isinstance(item, list) else [item])
    return flat


def _texts(raw: bytes) -> list[str]:
    """Return texts of which each stands behind its length, four bytes."""
    texts, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        piece = raw[at + 4 : at + 4 + size]
        if len(piece) != size or at + 4 > len(raw):
            raise FieldError("a text of text_input ends after its bytes do", "inputs")
        try:
            texts.append(piece.decode("utf-8"))
        except UnicodeDecodeError as fault:
            raise FieldError(f"text_input is not UTF-8 (byte {fault.start})", "inputs") from None
        at += 4 + size
    return texts


def write_infer(
    given: dict[str, Any], model: str, texts: list[str], token_ids: list[list[int]]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the size of its JSON where bytes follow it.

    Args:
        given: the request.
        model: its name.
        texts, token_ids: of the answer.
    """
    flat = [token for ids in token_ids for token in ids]
    encoded = [text.encode() for text in texts]
    tensors = {
        "text_output": (
            "BYTES",
            [len(texts)],
            texts,
            b"".join(len(t).to_bytes(4, "little") + t for t in encoded),
        ),
        "token_ids": ("INT32", [len(flat)], flat, np.array(flat, "<i4").tobytes()),
    }
    outputs, behind = [], b""
    for name, binary in _wanted(given):
        kind, shape, data, raw = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if binary:
            output["parameters"] = {"binary_data_size": len(raw)}
            behind += raw
        else:
            output["data"] = data
        outputs.append(output)
    answer = {"model_name": model, "model_version": "1", "outputs": outputs}
    if "id" in given:
        answer["id"] = given["id"]
    head = json.dumps(answer).encode()
    return head + behind, len(head) if behind or any(binary for _, binary in _wanted(given)) else None


def _wanted(given: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return the outputs that are asked for, and whether as bytes."""
    outputs = given.get("outputs")
    if outputs is None:
        binary = bool(_parameters(given).get("binary_data_output", False))
        return [(name, binary) for name in OUTPUTS]
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise FieldError(f"outputs is {quoted(outputs)}; valid: a list of objects", "outputs")
    wanted = []
    for output in outputs:
        if output.get("name") not in OUTPUTS:
            raise FieldError(
                f"the output {quoted(output.get('name'))} is none; valid: {', '.join(OUTPUTS)}", "outputs"
            )
        wanted.append((str(output["name"]), bool(_parameters(output).get("binary_data", False))))
    return wanted


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    value = holder.get("parameters")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FieldError(f"parameters is {quoted(value)}; valid: an object", "parameters")
    return value
