"""ONNX files that exporters write: small networks of well-known kinds through both exporters of torch, and a
function of onnxscript.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import FLOAT, script
from onnxscript import opset18 as op
from torch import nn

from tests.support.foreign_models import Case

__all__ = ["EXPORTED"]


class Residual(nn.Module):
    """Two residual blocks between a stem and a head, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16))
        self.short = nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.first(x))
        x = torch.relu(self.short(x) + self.second(x))
        return self.head(x.mean((2, 3)))


class Inverted(nn.Module):
    """An inverted residual with a depthwise convolution, as in a MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(8, 32, 1),
            nn.Hardswish(),
            nn.Conv2d(32, 32, 3, 1, 1, groups=32),
            nn.ReLU6(),
            nn.Conv2d(32, 8, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class Unet(nn.Module):
    """Down, up, and a skip between them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.out = nn.Conv2d(11, 2, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat((x, self.up(torch.relu(self.down(x)))), 1))


class Block(nn.Module):
    """A transformer block: attention and MLP, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [
            part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Tagger(nn.Module):
    """Embedding, LSTM, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(ids))[0])


class Detector(nn.Module):
    """The best boxes of a detection head; how many are kept depends on their scores."""

    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best, which = scores.topk(4)
        return boxes[which][torch.nonzero(best > 0.5).squeeze(1)]


def _exported(
    module: Callable[[], nn.Module], *arguments: torch.Tensor, dynamo: bool, dynamic: Any = None
) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.manual_seed(0)
        names = ["x", "scores"][: len(arguments)]
        shapes = {"dynamic_shapes": dynamic} if dynamo else {"dynamic_axes": dynamic}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the older exporter is deprecated, and files of it are everywhere
            torch.onnx.export(
                module().eval(),
                arguments,
                folder / "model.onnx",
                input_names=names,
                output_names=["y"],
                dynamo=dynamo,
                verbose=False,
                external_data=False,
                **shapes,
            )
        return folder / "model.onnx"

    return make


def _scripted(folder: Path) -> Path:
    @script()
    def swish(x: FLOAT["N", 4]) -> FLOAT["N", 4]:  # noqa: F821
        return x * op.Sigmoid(x)

    onnx.save(swish.to_model_proto(), folder / "model.onnx")
    return folder / "model.onnx"


IMAGE = torch.zeros(2, 3, 16, 16)
TOKENS = torch.zeros(2, 6, 16)
_BATCH = torch.export.Dim("batch", min=1, max=64)
EXPORTED = {
    "resnet_legacy": Case(
        _exported(Residual, IMAGE, dynamo=False, dynamic={"x": {0: "n", 2: "h", 3: "w"}}),
        "n:1,h:16,w:24",
        {"x": (1, 3, 16, 24)},
    ),
    "mobilenet_legacy": Case(_exported(Inverted, torch.zeros(1, 8, 8, 8), dynamo=False)),
    "unet_legacy": Case(
        _exported(Unet, IMAGE, dynamo=False, dynamic={"x": [0, 2, 3]}), "x:1x3x8x8", {"x": (1, 3, 8, 8)}
    ),
    "transformer": Case(
        _exported(Block, TOKENS, dynamo=True, dynamic=({0: _BATCH, 1: torch.export.Dim("length")},)),
        "batch:2,length:5",
        {"x": (2, 5, 16)},
    ),
    "transformer_legacy": Case(
        _exported(Block, TOKENS, dynamo=False, dynamic={"x": {1: "length"}}), "length:5", {"x": (2, 5, 16)}
    ),
    "lstm_legacy": Case(
        _exported(Tagger, torch.zeros(1, 4, dtype=torch.int64), dynamo=False, dynamic={"x": {1: "t"}}),
        "t:7",
        {"x": (1, 7)},
    ),
    "detector_legacy": Case(
        _exported(Detector, torch.zeros(8, 4), torch.zeros(8), dynamo=False),
    ),
    "onnxscript": Case(_scripted, "N:2", {"x": (2, 4)}),
}
