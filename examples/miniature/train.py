"""Train the miniature: the context tower, the denoiser over the frozen context tower, its last phase, export.

One command, one process: `python -m examples.miniature.train --out DIR`. Several processes share the work if
started by `torchrun --nproc-per-node 2 -m examples.miniature.train --out DIR`. Killed and started again it
goes on from the last checkpoint in DIR, to the same bits.
"""

import argparse
import json
import os
import random
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor, distributed

from examples.miniature import tokenizer as tokenizers
from examples.miniature.batches import Batch, collate, training_batches
from examples.miniature.data import TASKS, WORDS, make
from examples.miniature.forward import Loads
from examples.miniature.objectives import (
    Losses,
    context_loss,
    context_solves,
    denoiser_loss,
    denoiser_solves,
)
from examples.miniature.optimizer import Muon, split
from examples.miniature.refine import refine_loss
from examples.miniature.weights import export, new_context, new_denoiser, read
from ttc.errors import InputError
from ttc.model.config import ModelConfig
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER

__all__ = ["Run", "main"]

HERE = Path(__file__).parent
PHASES = ("context", "denoiser", "refine")
CLIP = 1.0  # largest norm of a gradient
# Where the run stands, and where it stood when the context tower was done: other denoisers can start there.
CHECKPOINT, CONTEXT_DONE = "checkpoint.pt", "context.pt"


@dataclass(slots=True)
class Run:
    """A training run: recipe, weights so far and where it stands.

    `average` holds the running average of what the last phase trains, by name; it is the phase's result.
    """

    recipe: dict[str, Any]
    config: ModelConfig
    tokenizer: Tokenizer
    folder: Path
    device: torch.device
    weights: dict[str, Tensor]
    rank: int = 0
    processes: int = 1
    phase: str = "context"
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    optimizers: tuple[torch.optim.Optimizer, ...] = ()
    average: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        recipe: dict[str, Any],
        config_file: Path,
        folder: Path,
        device: str,
        begin: Path | None = None,
    ) -> "Run":
        """A run from the checkpoint in `folder`; without one, from `begin`, or afresh.

        begin: a run's checkpoint, or a folder with the weights of a finished miniature, whose last phase is
        then trained.
        """
        config = ModelConfig.from_hf(json.loads(config_file.read_text(encoding="utf-8")), {})
        processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if processes > 1:
            distributed.init_process_group("gloo")
        run = cls(recipe, config, tokenizers.build(WORDS), folder, torch.device(device), {}, rank, processes)
        saved = folder / CHECKPOINT
        if begin is not None and not saved.exists():
            if not begin.exists():
                raise InputError(
                    f"no file {begin} to begin from; valid: a run's {CONTEXT_DONE} or {CHECKPOINT}, or "
                    "the folder of a finished miniature"
                )
            saved = begin
        if saved.is_dir():
            run.weights = {name: tensor.to(run.device) for name, tensor in read(saved).items()}
            run._enter("refine", run._of_denoiser())
        elif saved.exists():
            run._restore(torch.load(saved, map_location=device, weights_only=True))
        else:
            run._enter("context", new_context(config, recipe["seed"]))
        return run

    def train(self, stop_after: int | None = None) -> None:
        """Train what is left, at most `stop_after` steps of it."""
        left = stop_after
        while True:
            plan = self.recipe[self.phase]
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, disable=self.rank > 0) as bar:
                task = bar.add_task(self.phase, total=plan["steps"], completed=self.step)
                while self.step < plan["steps"]:
                    if left == 0:
                        self._keep(CHECKPOINT)
                        return
                    loss = self._one_step(plan)
                    left = None if left is None else left - 1
                    bar.update(task, completed=self.step, description=f"{self.phase} {loss:.3f}")
                    self._record(loss, plan)
            if self.phase == PHASES[-1]:
                return
            if self.phase == "context":
                self._enter("denoiser", new_denoiser(self.config, self.weights, self.recipe["seed"]))
                self._keep(CHECKPOINT, CONTEXT_DONE)
            else:
                self._enter("refine", self._of_denoiser())
                self._keep(CHECKPOINT)

    def tower(self, name: str) -> TowerWeights:
        """One tower of the weights so far."""
        return TowerWeights.of(self.config, name, self.weights)

    def result(self) -> dict[str, Tensor]:
        """All weights as they are exported and watched: the running average where there is one."""
        return {name: tensor.detach() for name, tensor in (self.weights | self.average).items()}

    def _of_denoiser(self) -> dict[str, Tensor]:
        return {
            n: t.detach() for n, t in self.weights.items() if not n.startswith(("context_", f"{CONTEXT}."))
        }

    def _enter(self, phase: str, fresh: dict[str, Tensor]) -> None:
        """Begin a phase: only its tower is trained, earlier ones stay as they are."""
        self.phase, self.step = phase, 0
        for tensor in self.weights.values():
            tensor.requires_grad_(False)
        for name, tensor in fresh.items():
            self.weights[name] = tensor.to(self.device).requires_grad_(not name.endswith("correction_bias"))
        matrices, rest = split({name: self.weights[name] for name in fresh})
        plan = self.recipe[phase]
        if "average" in plan:
            self.average = {name: tensor.detach().clone() for name, tensor in fresh.items()}
        self.optimizers = (
            Muon(matrices, plan["muon_lr"]),
            torch.optim.AdamW(rest, plan["adam_lr"], betas=(0.9, 0.98), weight_decay=0.0),
        )

    def _one_step(self, plan: dict[str, Any]) -> float:
        began = time.perf_counter()
        batches = training_batches(
            self.tokenizer, self.recipe["seed"] + PHASES.index(self.phase), self.step, self.rank,
            plan["batch"], self.recipe["block"], self.device, plan.get("shares"), plan.get("begun", 0.0),
        )  # fmt: skip
        loads: Loads = {}
        losses = self._losses(plan, batches, loads)
        # Of texts without an end, as untrained towers write, the last phase learns nothing: no weight at all.
        mean = losses.total / losses.weight.clamp(min=1.0)
        mean.backward()
        mean = mean.detach()
        trained = [tensor for group in self._groups() for tensor in group["params"]]
        self._average([*(tensor.grad for tensor in trained if tensor.grad is not None), mean])
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        rate = min(1.0, (self.step + 1) / plan["warmup"], (plan["steps"] - self.step) / plan["cooldown"])
        for optimizer, lr in zip(self.optimizers, (plan["muon_lr"], plan["adam_lr"]), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
            optimizer.step()
            optimizer.zero_grad()
        self._balance(loads, plan["balance"])
        for name, average in self.average.items():
            average.lerp_(self.weights[name].detach(), 1 - plan["average"])
        self.step += 1
        self.tokens += losses.tokens * self.processes
        self.seconds += time.perf_counter() - began
        return mean.item()

    def _losses(self, plan: dict[str, Any], batches: list[Batch], loads: Loads) -> Losses:
        if self.phase != "refine":
            return Losses.sum([self._loss(plan, batch, i, loads) for i, batch in enumerate(batches)])
        masks = torch.Generator().manual_seed(self.step * self.processes + self.rank)
        return refine_loss(
            self.config, self.tower(CONTEXT), self.tower(DENOISER), batches, self.recipe["block"], plan,
            self.recipe["result_weight"], masks, loads,
        )  # fmt: skip

    def _loss(self, plan: dict[str, Any], batch: Batch, number: int, loads: Loads) -> Losses:
        size, weight = self.recipe["block"], self.recipe["result_weight"]
        if self.phase == "context":
            return context_loss(self.config, self.tower(CONTEXT), batch, size, weight, loads)
        masks = torch.Generator().manual_seed((self.step * self.processes + self.rank) * 8 + number)
        return denoiser_loss(
            self.config, self.tower(CONTEXT), self.tower(DENOISER), batch, size,
            plan["masks"], plan["passes"], weight, masks, loads,
        )  # fmt: skip

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _average(self, tensors: list[Tensor]) -> None:
        """Average over the processes, in place, all tensors in one message."""
        if self.processes == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.processes
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    @torch.no_grad()
    def _balance(self, loads: Loads, balance: float) -> None:
        """Raise the routing bias of experts that got less than their share, lower the others'."""
        tower = CONTEXT if self.phase == "context" else DENOISER
        counts = {layer: load.float() for layer, load in loads.items()}
        self._average(list(counts.values()))
        for layer, load in counts.items():
            bias = self.weights[f"{tower}.layers.{layer}.mixer.gate.e_score_correction_bias"]
            bias += balance * (load.mean() - load).sign()

    def _record(self, loss: float, plan: dict[str, Any]) -> None:
        last = self.step == plan["steps"]
        if self.rank:
            return
        if self.step % 10 == 0 or last:
            line = {"phase": self.phase, "step": self.step, "tokens": self.tokens,
                    "seconds": round(self.seconds, 1), "loss": round(loss, 4)}  # fmt: skip
            if self.step % self.recipe["watch_every"] == 0 or last:
                line |= self._watch()
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if self.step % self.recipe["keep_every"] == 0 or last:
            self._keep(CHECKPOINT)

    @torch.no_grad()
    def _watch(self) -> dict[str, float]:
        """The share of held-out problems that the tower in training would solve."""
        found: dict[str, float] = {}
        weights = self.result()
        context = TowerWeights.of(self.config, CONTEXT, weights)
        for task in TASKS:
            rng = random.Random(task)
            count = self.recipe["watch"] if task == "word" else self.recipe["watch"] * 3 // 10
            problems = [make(rng, "test", task) for _ in range(count)]
            batch = collate(self.tokenizer, problems, self.recipe["block"], self.device)
            if self.phase == "context":
                solved = context_solves(self.config, context, batch, self.recipe["block"])
            else:
                denoiser = TowerWeights.of(self.config, DENOISER, weights)
                solved, evaluations = denoiser_solves(
                    self.config, context, denoiser, batch, self.recipe["block"]
                )
                if task == "word":
                    found["tokens_per_nfe"] = round(int(batch.ends.sum()) / evaluations, 2)
            found[task] = round(solved.float().mean().item(), 3)
        return found

    def _keep(self, *names: str) -> None:
        """Write the checkpoint under these names, whole or not at all."""
        if self.rank:
            return
        state = {
            "phase": self.phase, "step": self.step, "tokens": self.tokens, "seconds": self.seconds,
            "weights": {name: tensor.detach() for name, tensor in self.weights.items()},
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip
        for name in names:
            part = self.folder / f"{name}.part"
            torch.save(state, part)
            part.replace(self.folder / name)

    def _restore(self, state: dict[str, Any]) -> None:
        tower = CONTEXT if state["phase"] == "context" else DENOISER
        context = {n: t for n, t in state["weights"].items() if n.startswith(("context_", CONTEXT))}
        fresh = (
            context if tower == CONTEXT else {n: t for n, t in state["weights"].items() if n not in context}
        )
        self.weights = {} if tower == CONTEXT else context
        self._enter(state["phase"], fresh)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.average = state.get("average", {})
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.rank == 0:
            self._forget_later_lines()

    def _forget_later_lines(self) -> None:
        """Drop log lines of steps after the checkpoint; they come again.

        So does a last line that a kill cut short: a line is whole when its end is there.
        """
        log = self.folder / "log.jsonl"
        if not log.exists():
            return
        here = (PHASES.index(self.phase), self.step)
        raw = log.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1].decode().splitlines(keepends=True)
        stands = [json.loads(line) for line in whole]
        kept = [
            line
            for line, stand in zip(whole, stands, strict=True)
            if (PHASES.index(stand["phase"]), stand["step"]) <= here
        ]
        log.write_text("".join(kept), encoding="utf-8")


def main() -> None:
    """Parse the command line, train, export to DIR/checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and result")
    parser.add_argument("--recipe", type=Path, default=HERE / "recipe.toml")
    parser.add_argument(
        "--begin",
        type=Path,
        help=f"what to start from where DIR has no checkpoint yet: {CONTEXT_DONE} of another run, or the "
        "folder of a finished miniature, for its last phase",
    )
    parser.add_argument("--masks", choices=("sampler", "random"), help="in place of the recipe's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of this process (default 1)")
    parser.add_argument("--stop-after", type=int, help="stop after so many steps; start again to go on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(options.recipe.read_text(encoding="utf-8"))
    if options.masks:
        recipe["denoiser"]["masks"] = options.masks
    run = Run.start(recipe, HERE / "config.json", options.out, options.device, options.begin)
    run.train(options.stop_after)
    finished = run.phase == PHASES[-1] and run.step == recipe[run.phase]["steps"]
    if run.rank == 0 and finished:
        weights = {name: tensor.cpu() for name, tensor in run.result().items()}
        export(weights, HERE / "config.json", run.tokenizer, options.out / "miniature")


if __name__ == "__main__":
    main()
