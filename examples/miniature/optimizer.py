"""Muon for the matrices inside the layers, AdamW for everything else."""

import torch
from torch import Tensor

__all__ = ["Muon", "split"]


def split(weights: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What is trained: matrices for Muon, the rest for AdamW. Routing biases are balanced, not trained."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, tensor in weights.items():
        if name.endswith("e_score_correction_bias"):
            continue
        inside = ".mixer." in name and name.endswith("_proj.weight")
        (matrices if inside else rest).append(tensor)
    return matrices, rest


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal before each step (Jordan et al. 2024).

    Tensors are (…, out, in); leading axes are separate matrices.
    """

    def __init__(self, tensors: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(tensors, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            for tensor in group["params"]:
                state = self.state[tensor]
                average = state.setdefault("momentum", torch.zeros_like(tensor))
                average.lerp_(tensor.grad, 1 - group["momentum"])
                direction = orthogonal(tensor.grad.lerp(average, group["momentum"]))
                stretch = max(1.0, tensor.shape[-2] / tensor.shape[-1]) ** 0.5
                tensor.mul_(1 - group["lr"] * group["weight_decay"])
                tensor.add_(direction, alpha=-group["lr"] * stretch)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly U·Vᵀ of a matrix U·S·Vᵀ, by a quintic Newton-Schulz iteration with Jordan's coefficients."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    found: Tensor = x.mT if tall else x
    return found
