"""The miniature's recipe: its problems, its training arithmetic, and the asset that it made."""

import dataclasses
import json
import random
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from examples.miniature import data
from examples.miniature.batches import collate
from examples.miniature.checks import solved
from examples.miniature.data import TASKS, WORDS, Problem, held_out, make, problem_file
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
FILE = ROOT / "benchmarks" / "problems" / "miniature.jsonl"
CPU = torch.device("cpu")


def listed() -> list[dict[str, str]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


# Problems.


def test_the_problem_file_is_what_the_generator_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == problem_file()
    assert (
        ASSET.joinpath("problems.jsonl").read_text(encoding="utf-8").splitlines()
        == (problem_file().splitlines()[:200])
    )


def test_the_problem_file_holds_every_task_and_no_prompt_twice() -> None:
    problems = listed()
    assert {task: sum(p["task"] == task for p in problems) for task in TASKS} == {
        task: 500 if task == "word" else 50 for task in TASKS
    }
    assert len({p["prompt"] for p in problems}) == len(problems)


def skeleton(prompt: str) -> str:
    """The prompt without what decides nothing: who, which things, and which of the verbs of one meaning."""
    if prompt.startswith(("Question: Write", "Question: Sort", "Question: Copy")):
        return prompt
    for words, mark in (
        (data.NAMES, "N"),
        (data.THINGS, "T"),
        (data.BOXES, "B"),
        (data.GAINS, "G"),
        (data.LOSSES, "L"),
    ):
        prompt = re.sub(rf"\b({'|'.join(words)})\b", mark, prompt)
    return prompt


def test_training_never_makes_a_held_out_problem() -> None:
    """By the text itself, so a key that forgets something would show."""
    rng = random.Random(7)
    trained = {skeleton(make(rng, "train").prompt) for _ in range(8000)}
    assert not trained & {skeleton(problem["prompt"]) for problem in listed()}
    # The same draw without the rule does meet them: the test would notice.
    drawn = {skeleton(TASKS["word"][0](rng).prompt) for _ in range(8000)}
    assert drawn & {skeleton(problem["prompt"]) for problem in listed()}


def test_a_tenth_is_held_out() -> None:
    rng = random.Random(3)
    for task, (maker, _) in TASKS.items():
        share = sum(held_out(maker(rng).key) for _ in range(600)) / 600
        assert 0.05 < share < 0.16, task


def test_a_seed_gives_the_same_problems() -> None:
    first, second, other = ([make(random.Random(seed), "train") for _ in range(3)] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_every_computation_in_the_answers_is_right() -> None:
    found = 0
    for problem in listed():
        for a, sign, b, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", problem["text"]):
            x, y = int(a), int(b)
            expected = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[sign]
            assert expected == int(result), problem["text"]
            found += 1
    assert found > 1000


def test_the_checks_take_the_reference_and_nothing_broken() -> None:
    for problem in listed():
        check, answer, text = problem["check"], problem["answer"], problem["text"]
        assert solved(check, answer, text, ended=True)
        assert not solved(check, answer, text, ended=False)
        assert not solved(check, answer, text[: len(text) // 2], ended=True)
        last = max(i for i, letter in enumerate(text) if letter.isalnum())
        wrong = text[:last] + ("1" if text[last] == "0" else "0") + text[last + 1 :]
        assert not solved(check, answer, wrong, ended=True)
    assert not solved("answer", "5", " The answer is 5. The answer is 5.", ended=True)
    with pytest.raises(ValueError, match="valid: answer, exact, json"):
        solved("regex", "5", "5", ended=True)


# The tokenizer.


def test_the_tokenizer_gives_every_text_back() -> None:
    tokenizer = build(WORDS)
    for text in (*(p["text"] for p in listed()[:50]), "Größe 12 – naïve\n\tx  y", "日本"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("Nina 42").tokens[0] == "<s>"
    assert tokenizer.encode("x42", add_special_tokens=False).tokens == ["x", "4", "2"]


# Training.


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


def test_problems_are_frozen() -> None:
    problem = make(random.Random(0), "train")
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.answer = "0"  # type: ignore[misc]
    assert isinstance(problem, Problem)
