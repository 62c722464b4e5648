"""The cost model: against counts that are known otherwise, against draws, and against its own definitions."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ttc.cli import program
from ttc.errors import InputError
from ttc.model.config import ModelConfig
from ttc.planning.expert_formats import experts_bytes
from ttc.planning.experts import Routing, distinct_experts, fit_overlap
from ttc.planning.forecast import Question, forecast, winning_batches
from ttc.planning.machines import Machine, known_machines, load_machine
from ttc.planning.models import load_config, released_config
from ttc.planning.passes import EXPERTS, context_pass, denoiser_pass, parameters, state_bytes, total
from ttc.profiles.build_profile import build_preset_names

ROOT = Path(__file__).parents[2]
REAL = ModelConfig.from_hf(released_config())
MACHINE = Machine("round numbers", 1e12, 1e14, 1e11, "made up")


def question(**changed: Any) -> Question:
    return Question(**({"config": REAL, "machine": MACHINE} | changed))


def test_the_released_model_has_the_parameters_it_is_known_for() -> None:
    # 31.58 B a tower and 118 GiB of bfloat16 (arXiv 2606.26493, and the checkpoint's own index).
    assert parameters(REAL) / 2 / 1e9 == pytest.approx(31.6, abs=0.05)
    assert 2 * parameters(REAL) / 2**30 == pytest.approx(118, abs=1)


def test_an_ar_step_computes_with_the_active_parameters_and_reads_them() -> None:
    # 3.58 B parameters are active per token, 0.35 B of them the embedding, of which one row is read.
    active = 3.58e9 - REAL.vocab_size * REAL.hidden_size
    cost = total(context_pass(REAL, 1, 1, 0, 2, Routing()))
    assert cost.flops == pytest.approx(2 * active, rel=0.03)
    state = 2 * state_bytes(REAL, 1, 0, 2)  # read and written
    assert cost.bytes == pytest.approx(2 * active + state, rel=0.03)


def test_the_state_is_as_large_as_the_specification_says() -> None:
    fixed, with_cache = state_bytes(REAL, 1, 0, 2), state_bytes(REAL, 1, 1000, 2)
    assert fixed == 23 * (36 * 1024 + 2 * 2**20)
    assert (with_cache - fixed) / 1000 == pytest.approx(6 * 1024, rel=0.01)


def test_an_overlap_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"overlap is 1.5; valid: 0 .* to 1"):
        Routing(1.5)


def test_distinct_experts_are_those_of_draws() -> None:
    rng = np.random.default_rng(0)
    drawn = [len({int(e) for _ in range(16) for e in rng.choice(128, 6, replace=False)}) for _ in range(400)]
    assert distinct_experts(128, 6, 16) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    assert Routing().experts(128, 6, 1, 1) == pytest.approx(6)
    assert Routing(overlap=1).experts(128, 6, 4, 16) == pytest.approx(distinct_experts(128, 6, 4))
    assert Routing(dense=True).experts(128, 6, 1, 1) == 128


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_an_overlap_is_found_in_what_it_makes(overlap: float) -> None:
    made = Routing(overlap).experts(128, 6, 1, 16)
    assert fit_overlap(128, 6, 16, made) == pytest.approx(overlap, abs=1e-9)


@pytest.mark.parametrize(("length", "measured"), [(1, 6.0), (16, 5.0), (16, 129.0)])
def test_measurements_that_cannot_be(length: int, measured: float) -> None:
    with pytest.raises(InputError):
        fit_overlap(128, 6, length, measured)


def test_dense_experts_read_and_compute_all() -> None:
    routed, dense = (total(context_pass(REAL, 1, 1, 0, 2, Routing(dense=d))) for d in (False, True))
    layer = 2 * REAL.moe_intermediate_size * REAL.hidden_size  # parameters of an expert
    more = 23 * (128 - 6) * layer
    assert dense.flops - routed.flops == pytest.approx(2 * more, rel=0.01)
    assert dense.bytes - routed.bytes == pytest.approx(2 * more, rel=0.01)


def test_what_makes_a_denoiser_pass_more_than_a_context_pass() -> None:
    nfe, extension = denoiser_pass(REAL, 1, 16, 0, 2, Routing()), context_pass(REAL, 1, 16, 0, 2, Routing())
    assert set(nfe) - set(extension) == {"time", "step"}
    assert nfe["head"].flops == pytest.approx(16 * extension["head"].flops)
    assert nfe["M"].bytes < extension["M"].bytes, "the denoiser writes no state"
    assert (nfe["E"], nfe[EXPERTS]) == (extension["E"], extension[EXPERTS])


def test_the_forecast_is_what_its_formulas_say() -> None:
    q = question()
    found = forecast(q, 4, [2.0, 4.0])
    slow, fast = found.diffusion
    block = 16 / 4 * found.nfe.seconds + found.extension.seconds
    assert fast.tokens_per_second == pytest.approx(4 * 16 / block)
    assert fast.over_ar == pytest.approx(fast.tokens_per_second / found.ar_tokens_per_second)
    assert slow.over_ar < fast.over_ar
    parts = denoiser_pass(REAL, 4, 16, 1024, 2, Routing()).values()
    assert found.nfe.seconds == pytest.approx(sum(max(p.bytes / 1e12, p.flops / 1e14) for p in parts))
    assert found.memory_bytes > 1e11
    assert not found.fits
    assert found.break_even is not None
    assert forecast(q, 4, [found.break_even]).diffusion[0].over_ar == pytest.approx(1)
    lossless = dataclasses.replace(q, accepted=found.lossless.break_even)
    assert forecast(lossless, 4, []).lossless.over_ar == pytest.approx(1)


def test_packing_costs_passes_of_more_than_one_token() -> None:
    plain = question(routing=Routing(dense=True))
    packs = dataclasses.replace(plain, machine=dataclasses.replace(MACHINE, packing_bytes_per_second=1e11))
    # 128 experts of two matrices in each of 23 layers, two bytes a number.
    extra = 23 * 128 * 2 * REAL.moe_intermediate_size * REAL.hidden_size * 2 / 1e11
    assert experts_bytes(REAL, "plain", 2) / 1e11 == pytest.approx(extra)
    one, more = (forecast(packs, batch, []) for batch in (1, 2))
    assert one.ar_step == forecast(plain, 1, []).ar_step
    assert more.ar_step.seconds - forecast(plain, 2, []).ar_step.seconds == pytest.approx(extra)
    assert one.nfe.seconds - forecast(plain, 1, []).nfe.seconds == pytest.approx(extra)
    assert more.ar_step.limit == "packing"
    chosen = dataclasses.replace(packs, routing=Routing())
    assert forecast(chosen, 2, []).ar_step == forecast(question(), 2, []).ar_step


def test_more_tokens_bring_arithmetic_to_its_limit() -> None:
    assert forecast(question(), 1, []).ar_step.limit == "memory"
    assert forecast(question(), 1024, []).nfe.limit == "arithmetic"


@pytest.mark.parametrize("rate", [2.0, 3.0])
def test_the_ends_of_where_diffusion_wins(rate: float) -> None:
    q = question()
    ends = winning_batches(q, rate)
    assert ends is not None
    inside = [forecast(q, size, [rate]).diffusion[0].over_ar for size in ends]
    outside = [forecast(q, size, [rate]).diffusion[0].over_ar for size in (ends[0] - 1, ends[1] + 1)]
    assert min(inside) > 1 >= max(outside)


def test_without_experts_a_block_costs_little_more_than_a_token() -> None:
    dense = ModelConfig.from_hf(released_config() | {
        "hybrid_override_pattern": "M*-", "num_hidden_layers": 3, "intermediate_size": 4096,
    })  # fmt: skip
    found = forecast(question(config=dense), 1, [3.0])
    assert found.nfe.experts == 0
    assert found.nfe_in_ar_steps < 1.2
    assert found.diffusion[0].over_ar > 2


@pytest.mark.parametrize(
    ("changed", "batch", "rates"),
    [
        ({}, 0, []),
        ({}, 1, [0.0]),
        ({}, 1, [17.0]),
        ({"block_size": 0}, 1, []),
        ({"context": -1}, 1, []),
        ({"accepted": 17}, 1, []),
        ({"draft_steps": 0}, 1, []),
    ],
)
def test_questions_without_an_answer(changed: dict[str, Any], batch: int, rates: list[float]) -> None:
    with pytest.raises(InputError, match="valid"):
        forecast(question(**changed), batch, rates)


def test_every_build_preset_of_a_gpu_is_a_known_machine() -> None:
    shapes_only = {"latency", "throughput", "long-context"}
    assert set(build_preset_names()) - shapes_only == set(known_machines())


def test_machines_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    good = (
        'name = "mine"\nbytes_per_second = 1e11\nflops_per_second = 1e12\nmemory_bytes = 8e9\nsource = "me"\n'
    )
    file.write_text(good)
    assert load_machine(str(file)).name == "mine"
    file.write_text(good + "packing_bytes_per_second = 1e9\n")
    assert load_machine(str(file)).packing_bytes_per_second == 1e9
    for wrong in (
        good + "packing_bytes_per_second = 0\n",
        good.replace("1e11", "-1"),
        good.replace("memory_bytes", "memory"),
        "= 3",
        "",
    ):
        file.write_text(wrong)
        with pytest.raises(InputError, match="machine"):
            load_machine(str(file))
    with pytest.raises(InputError, match="no machine 'tpu'; valid: h100"):
        load_machine("tpu")


def test_the_command() -> None:
    done = CliRunner().invoke(program, ["plan", "--gpu", "h100", "--batch", "1,64", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == "twotower-30b-a3b"
    assert [one["batch"] for one in found["batches"]] == [1, 64]
    assert set(found["winning_batches"]) == {"2", "3", "4"}
    shown = CliRunner().invoke(program, ["plan", "--gpu", "h100", "--overlap", "0.5"])
    assert shown.exit_code == 0, shown.stderr
    assert "batch 1 needs 126" in shown.stdout
    assert "more than this machine has" in shown.stdout
    assert "with overlap 0.5" in shown.stdout


@pytest.mark.parametrize("batch", ["1,1", "0", "8,-1"])
def test_batches_that_cannot_be(batch: str) -> None:
    refused = CliRunner().invoke(program, ["plan", "--batch", batch])
    assert refused.exit_code == 2
    assert f"--batch is {batch}; valid: from 1, none of them twice" in refused.stderr


def test_the_document_shows_what_the_command_prints() -> None:
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- output -->\n```console\n\$ (.*?)\n(.*?)```", text, re.DOTALL)
    assert len(found) == 3
    for command, shown in found:
        done = CliRunner().invoke(program, command.split()[1:], prog_name="ttc")
        assert done.stdout == shown


def test_the_command_takes_a_checkpoint_a_config_and_a_list() -> None:
    miniature = ROOT / "ttc" / "miniature"
    folder, file = (
        CliRunner().invoke(program, ["plan", str(path), "--json"])
        for path in (miniature, miniature / "config.json")
    )
    assert json.loads(folder.stdout)["batches"] == json.loads(file.stdout)["batches"]
    assert load_config(miniature)[1].hidden_size == 128
    listed = CliRunner().invoke(program, ["plan", "--gpu", "list"])
    assert all(machine.source in listed.stdout for machine in known_machines().values())
