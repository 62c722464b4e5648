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
from examples.miniature.forward import (
    Before,
    block_logits,
    context_hidden,
    context_logits,
    denoiser_logits,
)
from examples.miniature.refine import own_text
from examples.miniature.tokenizer import EOS, MASK, build
from examples.miniature.train import Run
from examples.miniature.weights import export, new_context, new_denoiser, read
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
    for phase in ("context", "denoiser", "refine"):
        recipe[phase] |= {"steps": 6, "cooldown": 2, "warmup": 1, "batch": 4}
    # An untrained context tower's own text takes a pass per token to find.
    recipe["refine"] |= {"steps": 3, "batch": 2, "shares": {"sort": 1.0}}
    return {**recipe, "watch_every": 100, "watch": 10, "keep_every": 100}


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small_raw()), encoding="utf-8")
    return path


def test_training_learns_and_goes_on_to_the_same_bits_after_a_stop(tmp_path: Path, small_model: Path) -> None:
    """Stopped in every phase and started again, a run ends where an uninterrupted one does.

    So does one that begins with the context tower of another.
    """
    folders = [tmp_path / "whole", tmp_path / "parts", tmp_path / "denoiser"]
    for folder in folders:
        folder.mkdir()
    whole = Run.start(small_recipe(), small_model, folders[0], "cpu")
    whole.train()
    for _ in range(4):
        part = Run.start(small_recipe(), small_model, folders[1], "cpu")
        part.train(stop_after=4)
        with folders[1].joinpath("log.jsonl").open("a") as log_file:  # of steps that a kill has undone
            log_file.write(json.dumps({"phase": part.phase, "step": part.step + 1, "loss": 0.0}) + "\n")
            log_file.write('{"phase": "con')  # and a line that it cut short
    begun = Run.start(small_recipe(), small_model, folders[2], "cpu", folders[0] / "context.pt")
    begun.train()
    assert (whole.phase, whole.step) == ("refine", 3)
    for run in (part, begun):
        assert (run.phase, run.step, run.tokens) == (whole.phase, whole.step, whole.tokens)
        assert whole.weights.keys() == run.weights.keys()
        for name, tensor in whole.weights.items():
            assert torch.equal(tensor, run.weights[name]), name
            assert torch.equal(whole.result()[name], run.result()[name]), name
    log, resumed = (
        [
            json.loads(line)
            for line in folder.joinpath("log.jsonl").read_text().splitlines()
            if line[-1] == "}"
        ]
        for folder in folders[:2]
    )
    assert [line["loss"] for line in resumed[:-1]] == [line["loss"] for line in log]
    assert [(line["phase"], line["step"]) for line in log] == [("context", 6), ("denoiser", 6), ("refine", 3)]
    assert log[1]["loss"] < log[0]["loss"] < 5.8  # a new model's is near ln(384) = 5.95
    assert {"word", "tokens_per_nfe"} <= log[-1].keys()


def test_the_last_phase_trains_the_denoiser_of_a_finished_model(tmp_path: Path) -> None:
    stored = read(ASSET)
    run = Run.start(small_recipe(), RECIPE / "config.json", tmp_path, "cpu", ASSET)
    assert (run.phase, run.step) == ("refine", 0)
    run.train(stop_after=2)
    after = run.result()
    assert after.keys() == stored.keys()
    for name, tensor in stored.items():
        of_context = name.startswith(("context_tower.", "context_lm_head"))
        assert torch.equal(after[name], tensor) == of_context, name
    share = small_recipe()["refine"]["average"]
    name = "denoiser_tower.layers.3.mixer.q_proj.weight"
    moved, of_average = ((each[name] - stored[name]).norm() for each in (run.weights, after))
    assert 0 < of_average < 3 * (1 - share) * moved


def test_targets_are_what_the_context_tower_writes() -> None:
    """Against the tower asked for one token after another; a random tower writes other than right texts."""
    config, size = small_config(), 4
    tower = TowerWeights.of(config, CONTEXT, random_weights(config))
    rng = random.Random(3)
    batch = collate(build(WORDS), [make(rng, "train", "copy") for _ in range(6)], size, CPU)
    own, seeds = own_text(config, tower, batch, size)
    ids = batch.ids.clone()
    over = torch.zeros(len(ids), dtype=torch.bool)
    for at in range(batch.answer, ids.shape[1]):
        hidden, _ = context_hidden(config, tower, ids, batch.real, size, {})
        logits = context_logits(config, tower, hidden[:, at - 1])
        logits[:, MASK] = -torch.inf
        ids[:, at] = logits.argmax(-1).masked_fill(over, EOS)
        over |= ids[:, at] == EOS
    assert torch.equal(own.ids, ids)
    assert not torch.equal(own.ids, batch.ids)
    assert torch.equal(own.ends == 0, ~over)
    _, expected = context_hidden(config, tower, own.ids, batch.real, size, {})
    for layer, wanted in zip(seeds, expected, strict=True):
        for tensor, other in zip(layer, wanted, strict=True):
            torch.testing.assert_close(tensor, other, atol=CONTEXT_LOGITS, rtol=0)


def test_blocks_of_several_sequences_are_what_they_are_alone() -> None:
    config, size = small_config(), 16
    weights = random_weights(config)
    context, denoiser = (TowerWeights.of(config, tower, weights) for tower in (CONTEXT, DENOISER))
    rng = random.Random(5)
    masks = torch.Generator().manual_seed(2)
    alone, parts, blocks, shares = [], [], [], []
    for task in ("word", "sort"):
        batch = collate(build(WORDS), [make(rng, "train", task) for _ in range(2)], size, CPU, [0, 3])
        assert batch.begun.tolist() == [False, True]
        _, seeds = context_hidden(config, context, batch.ids, batch.real, size, {})
        right = batch.ids[:, batch.answer :].unflatten(1, (-1, size))
        masked = right.masked_fill(torch.rand(right.shape, generator=masks) < 0.5, MASK)
        t = torch.rand(right.shape[:2], generator=masks)
        picked = torch.rand(t.shape, generator=masks) < 0.7
        assert picked.any()
        alone.append(denoiser_logits(config, denoiser, masked, t, seeds, batch.real, {})[picked])
        parts.append(Before.of(config, seeds, batch.real, size, picked))
        blocks.append(masked[picked])
        shares.append(t[picked])
    together = block_logits(
        config, denoiser, torch.cat(blocks), torch.cat(shares), Before.joined(config, parts), {}
    )
    torch.testing.assert_close(together, torch.cat(alone), atol=DENOISER_LOGITS, rtol=0)


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
