"""What the library made of an ONNX file: the inputs and outputs of its network, as the library tells them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

__all__ = ["NAMELESS", "Network", "NetworkTensor"]

NAMELESS: Final = "?"  # an open dimension without a name


@dataclass(frozen=True, slots=True)
class NetworkTensor:
    """One input or output of a network.

    Attributes:
        name: as in the ONNX file.
        dtype: by its usual name, such as "float32".
        shape: open dimensions are texts: their name or `NAMELESS`.
        is_shape: whether the network's shapes depend on its values, so that a build needs ranges of those.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    is_shape: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """A network that the library parsed.

    Attributes:
        inputs: in the library's order.
        outputs: likewise.
        layers: how many it has.
    """

    inputs: tuple[NetworkTensor, ...]
    outputs: tuple[NetworkTensor, ...]
    layers: int

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON; `of` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Return the network that was written as this JSON object."""
        inputs, outputs = (
            tuple(NetworkTensor(**(tensor | {"shape": tuple(tensor["shape"])})) for tensor in content[key])
            for key in ("inputs", "outputs")
        )
        return cls(inputs, outputs, content["layers"])
