"""The miniature's training arithmetic, and the asset that it made."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from examples.miniature.batches import collate
from examples.miniature.data import WORDS, make
from examples.miniature.forward import context_hidden, context_logits, denoiser_logits
from examples.miniature.tokenizer import MASK, build
from examples.miniature.train import Run
from examples.miniature.weights import export, new_context, new_denoiser
from tests.support.tolerances import CONTEXT_LOGITS, DENOISER_LOGITS
from ttc.errors import InputError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.model.config import ModelConfig
from ttc.model.graphs import layer_state
from ttc.model.towers import TowerWeights, context_forward, denoiser_forward
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.naive import run_naive

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples" / "miniature"
ASSET = ROOT / "ttc" / "miniature"
CPU = torch.device("cpu")


def small_raw() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((RECIPE / "config.json").read_text(encoding="utf-8"))
    return raw | {
        "hidden_size": 24, "hybrid_override_pattern": "ME*M", "num_hidden_layers": 4, "mamba_head_dim": 8,
        "ssm_state_size": 4, "head_dim": 8, "n_routed_experts": 4, "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
    }  # fmt: skip


def small_config() -> ModelConfig:
    return ModelConfig.from_hf(small_raw(), {})


def random_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Both towers, unlike each other, with time conditioning and routing biases that matter."""
    weights = new_context(config, 5)
    weights |= new_denoiser(config, new_context(config, 6), 6)
    random = torch.Generator().manual_seed(8)
    for name, tensor in weights.items():
        if name.startswith(("t_block", "scale_shift")) or name.endswith("correction_bias"):
            tensor += 0.2 * torch.randn(tensor.shape, generator=random)
    return weights


def empty_state(config: ModelConfig, capacity: int) -> list[tuple[torch.Tensor, ...]]:
    sizes = {"B": 1, "C": capacity}
    return [
        tuple(torch.zeros(tensor.sizes(sizes)) for tensor in layer_state(config, kind))
        for kind in config.layers
    ]


def ints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def test_training_computes_what_the_exporter_compiles() -> None:
    """Prompts of different lengths, padded; the exporter's towers read one sequence at a time."""
    config, size = small_config(), 16
    weights = random_weights(config)
    context, denoiser = (TowerWeights.of(config, tower, weights) for tower in (CONTEXT, DENOISER))
    rng = random.Random(4)
    batch = collate(build(WORDS), [make(rng, "train", task) for task in ("word", "json")], size, CPU)
    B, L = batch.ids.shape
    right = batch.ids[:, batch.answer :].unflatten(1, (-1, size))
    A = right.shape[1]
    assert A >= 3
    masks = torch.Generator().manual_seed(1)
    blocks = right.masked_fill(torch.rand(right.shape, generator=masks) < 0.5, MASK)
    t = torch.rand(B, A, generator=masks)
    hidden, seeds = context_hidden(config, context, batch.ids, batch.real, size, {})
    logits = context_logits(config, context, hidden)
    denoised = denoiser_logits(config, denoiser, blocks, t, seeds, batch.real, {})
    for row in range(B):
        ids = batch.ids[row][batch.real[row]][None].int()
        length = ids.shape[1]
        everywhere = torch.arange(length, dtype=torch.int32)[None]
        expected, _, _ = context_forward(
            config, context, run_naive, ids, ints(0), ints(length), everywhere, empty_state(config, L)
        )
        torch.testing.assert_close(logits[row, L - length :], expected[0], atol=CONTEXT_LOGITS, rtol=0)
        for a in range(A):
            read = batch.answer + a * size - (L - length)
            _, state, _ = context_forward(
                config, context, run_naive, ids[:, :read], ints(0), ints(read), ints(0)[None],
                empty_state(config, L),
            )  # fmt: skip
            block = blocks[row, a][None].int()
            wanted = denoiser_forward(config, denoiser, run_naive, block, t[row, a][None], ints(read), state)
            torch.testing.assert_close(denoised[row, a], wanted[0], atol=DENOISER_LOGITS, rtol=0)


def small_recipe() -> dict[str, Any]:
    recipe = tomllib.loads((RECIPE / "recipe.toml").read_text(encoding="utf-8"))
    for phase in ("context", "denoiser"):
        recipe[phase] |= {"steps": 6, "cooldown": 2, "warmup": 1, "batch": 4}
    return {**recipe, "watch_every": 100, "watch": 10, "keep_every": 100}


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small_raw()), encoding="utf-8")
    return path


def test_training_learns_and_goes_on_to_the_same_bits_after_a_stop(tmp_path: Path, small_model: Path) -> None:
    """Stopped in both phases and started again, a run ends where an uninterrupted one does.

    So does one that begins with the context tower of another.
    """
    folders = [tmp_path / "whole", tmp_path / "parts", tmp_path / "denoiser"]
    for folder in folders:
        folder.mkdir()
    whole = Run.start(small_recipe(), small_model, folders[0], "cpu")
    whole.train()
    for _ in range(3):
        part = Run.start(small_recipe(), small_model, folders[1], "cpu")
        part.train(stop_after=4)
        with folders[1].joinpath("log.jsonl").open("a") as log_file:  # of steps that a kill has undone
            log_file.write(json.dumps({"phase": part.phase, "step": part.step + 1, "loss": 0.0}) + "\n")
            log_file.write('{"phase": "con')  # and a line that it cut short
    begun = Run.start(small_recipe(), small_model, folders[2], "cpu", folders[0] / "context.pt")
    begun.train()
    assert (whole.phase, whole.step) == ("denoiser", 6)
    for run in (part, begun):
        assert (run.phase, run.step, run.tokens) == (whole.phase, whole.step, whole.tokens)
        assert whole.weights.keys() == run.weights.keys()
        for name, tensor in whole.weights.items():
            assert torch.equal(tensor, run.weights[name]), name
    log, resumed = (
        [
            json.loads(line)
            for line in folder.joinpath("log.jsonl").read_text().splitlines()
            if line[-1] == "}"
        ]
        for folder in folders[:2]
    )
    assert [line["loss"] for line in resumed[:-1]] == [line["loss"] for line in log]
    assert [(line["phase"], line["step"]) for line in log] == [("context", 6), ("denoiser", 6)]
    assert log[1]["loss"] < log[0]["loss"] < 5.8  # a new model's is near ln(384) = 5.95
    assert {"word", "tokens_per_nfe"} <= log[-1].keys()


def test_a_beginning_that_is_not_there_is_refused(tmp_path: Path, small_model: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*none\.pt to begin from; valid: a run's context\.pt"):
        Run.start(small_recipe(), small_model, tmp_path, "cpu", tmp_path / "none.pt")


def test_the_export_is_a_checkpoint(tmp_path: Path, small_model: Path) -> None:
    config = small_config()
    weights = random_weights(config)
    export(weights, small_model, build(WORDS), tmp_path / "exported")
    with Checkpoint.open(tmp_path / "exported") as checkpoint:
        assert checkpoint.config == config
        name = "layers.1.mixer.experts.{}.down_proj.weight"
        stacked = weights["denoiser_tower.layers.1.mixer.experts.down_proj.weight"]
        for e in range(4):
            stored = checkpoint.read(f"denoiser_tower.{name.format(e)}")
            assert torch.equal(
                torch.from_numpy(stored.astype("float32")), stacked[e].to(torch.bfloat16).float()
            )


# The asset.


def test_the_asset_is_of_this_recipe() -> None:
    assert ASSET.joinpath("config.json").read_bytes() == RECIPE.joinpath("config.json").read_bytes()
    shipped = Tokenizer.from_file(str(ASSET / "tokenizer.json"))
    assert shipped.to_str() == build(WORDS).to_str()
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 10_000_000
