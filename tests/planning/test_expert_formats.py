"""Plans with quantised experts: the released model's bytes, what holds it, and the decode as a limit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ttc.base.quantised import WEIGHT_FORMATS, WRITTEN_FORMATS
from ttc.cli import program
from ttc.errors import InputError
from ttc.model.config import ModelConfig
from ttc.planning.expert_formats import INSTRUCTIONS, TILE_ROWS, ExpertFormats, decode_rate, experts_bytes
from ttc.planning.experts import Routing
from ttc.planning.forecast import Question, forecast
from ttc.planning.gpus import formats_on_gpu
from ttc.planning.holding import holding
from ttc.planning.machines import Machine, known_machines
from ttc.planning.models import load_config, released_config, stored_formats
from ttc.planning.passes import EXPERTS, context_pass, decoded_weights, tower_bytes
from ttc.profiles.build_profile import load_build_profile

ROOT = Path(__file__).parents[2]
REAL = ModelConfig.from_hf(released_config())
H100 = known_machines()["h100"]
EXPERT_WEIGHTS = 23 * 128 * 2 * 1856 * 2688  # of a tower


def both(word: str, denoiser: str | None = None) -> float:
    return sum(tower_bytes(REAL, 2, ExpertFormats(word, denoiser or word)).values())


def question(**changed: Any) -> Question:
    return Question(**({"config": REAL, "machine": H100} | changed))


def test_both_towers_take_what_the_formats_say() -> None:
    assert both("plain") / 1e9 == pytest.approx(126.4, abs=0.05)
    # A scale of four bytes for each of an expert's 1856 + 2688 outputs.
    channel_scales = 2 * 23 * 128 * (1856 + 2688) * 4
    for word in ("int8", "fp8"):
        assert (both(word) - channel_scales) / 1e9 == pytest.approx(67.6, abs=0.05)
    for word in ("nvfp4", "int4"):
        assert both(word) / 1e9 == pytest.approx(41.9, abs=0.05)
    assert both("int8", "nvfp4") == pytest.approx((both("int8") + both("nvfp4")) / 2, rel=1e-3)


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
def test_only_the_experts_part_of_a_pass_shrinks(word: str) -> None:
    plain, quantised = (context_pass(REAL, 1, 16, 0, 2, Routing(), experts=w) for w in ("plain", word))
    assert {part for part in plain if plain[part] != quantised[part]} == {EXPERTS}
    assert plain[EXPERTS].flops == quantised[EXPERTS].flops
    hit = Routing().experts(128, 6, 1, 16) / 128
    saved = hit * (experts_bytes(REAL, "plain", 2) - experts_bytes(REAL, word, 2))
    assert plain[EXPERTS].bytes - quantised[EXPERTS].bytes == pytest.approx(saved)


def test_diffusion_gains_more_than_ar() -> None:
    plain, int8, nvfp4 = (
        forecast(question(formats=ExpertFormats(w, w)), 1, [3.0]) for w in ("plain", "int8", "nvfp4")
    )
    assert plain.nfe_in_ar_steps > int8.nfe_in_ar_steps > nvfp4.nfe_in_ar_steps
    assert plain.nfe.seconds / int8.nfe.seconds == pytest.approx(1.8, abs=0.1)
    assert not plain.fits
    assert int8.fits
    assert nvfp4.fits


def test_a_tower_alone_changes_only_its_passes() -> None:
    plain = forecast(question(), 1, [3.0])
    mixed = forecast(question(formats=ExpertFormats(denoiser="nvfp4")), 1, [3.0])
    assert mixed.ar_step == plain.ar_step
    assert mixed.extension == plain.extension
    assert mixed.nfe.seconds < plain.nfe.seconds
    assert mixed.weight_bytes["context_tower"] == plain.weight_bytes["context_tower"]


def test_the_decode_is_a_limit_where_memory_is_fast() -> None:
    fast = dataclasses.replace(H100, bytes_per_second=1e14)
    found = forecast(question(machine=fast, formats=ExpertFormats("int8", "int8")), 1, [])
    assert found.nfe.limit == "decode"
    rate = decode_rate("int8", fast)
    assert rate is not None
    read = Routing().experts(128, 6, 1, 16) / 128 * EXPERT_WEIGHTS
    assert found.nfe.seconds > read / rate
    unknown = dataclasses.replace(fast, instructions_per_second=None)
    free = forecast(question(machine=unknown, formats=ExpertFormats("int8", "int8")), 1, [])
    assert free.nfe.seconds < found.nfe.seconds
    assert forecast(question(machine=fast), 1, []).nfe.limit != "decode"


def test_an_expert_with_many_tokens_is_decoded_again() -> None:
    every = decoded_weights(REAL, 1, 2000, Routing())
    assert every == pytest.approx(EXPERT_WEIGHTS, rel=1e-6)
    assert decoded_weights(REAL, 1, TILE_ROWS * 128 // 6 * 4, Routing()) == pytest.approx(4 * every, rel=0.01)


@pytest.mark.parametrize(
    ("capability", "word", "instructions"),
    [
        ("9.0", "int8", 3.81),
        ("12.1", "nvfp4", 4.55),
        ("8.7", "int4", 5.95),
        ("8.6", "fp8", 9.19),
        ("7.5", "int8", None),
        ("9.0", "mxfp4", None),
        ("9.0", "plain", None),
        (None, "int8", None),
    ],
)
def test_instructions_a_weight(capability: str | None, word: str, instructions: float | None) -> None:
    machine = Machine("m", 1e12, 1e14, 1e11, "s", capability=capability, instructions_per_second=1e13)
    rate = decode_rate(word, machine)
    assert rate == (None if instructions is None else pytest.approx(1e13 / instructions))


def test_which_machines_hold_what() -> None:
    machines = {n: Machine(n, 1e12, 1e14, gb * 1e9, "s") for n, gb in (("a", 80), ("b", 40), ("c", 20))}
    found = {one.machine: one for one in holding(machines, (33e9, 35e9))}
    assert [found[n].holds for n in "abc"] == ["both", "one", "none"]
    assert [found[n].left_bytes for n in "abc"] == [12e9, 5e9, -13e9]


@pytest.mark.parametrize("name", sorted(known_machines()))
def test_every_preset_suggests_what_fits(name: str) -> None:
    suggested = load_build_profile(name).experts
    assert suggested
    for word in suggested:
        towers = tower_bytes(REAL, 2, ExpertFormats(word, word)).values()
        (found,) = holding({name: known_machines()[name]}, towers)
        assert found.holds == ("one" if name == "rtx-5090" else "both")


def test_formats_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"experts of context_tower in 'int3'; valid: plain, int8"):
        ExpertFormats("int3")
    with pytest.raises(InputError, match="every expert on every token"):
        question(formats=ExpertFormats("int8", "int8"), routing=Routing(dense=True))


def test_the_command_plans_for_formats() -> None:
    done = CliRunner().invoke(program, ["plan", "--gpu", "h100", "--experts", "int8", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["assumed"]["experts"] == {"context": "int8", "denoiser": "int8"}
    assert found["batches"][0]["fits"]
    assert {one["machine"]: one["holds"] for one in found["machines"]}["l40s"] == "one"
    shown = CliRunner().invoke(
        program, ["plan", "--gpu", "h100", "--experts", "int8", "--denoiser-experts", "nvfp4"]
    )
    assert "experts  int8 (context tower) and nvfp4 (denoiser tower)" in shown.stdout
    assert "54.8 GB both" in shown.stdout
    assert "both towers on one: h100 (25.2 GB left)" in shown.stdout
    plain = CliRunner().invoke(program, ["plan", "--gpu", "h100"])
    assert "--experts int8 brings both towers to 67.7 GB" in plain.stdout


def test_formats_on_gpus_that_were_found() -> None:
    hopper = {one.format: one for one in formats_on_gpu("9.0", 80e9)}
    assert [hopper[w].native for w in ("int8", "fp8", "nvfp4", "int4")] == [True, True, False, False]
    assert [hopper[w].holds for w in ("plain", "int8", "nvfp4")] == ["one", "both", "both"]
    assert hopper["int8"].both_bytes == pytest.approx(both("int8"))
    assert not {one.format: one for one in formats_on_gpu("8.0", 80e9)}["fp8"].native
    assert {one.format: one for one in formats_on_gpu("12.1", 128e9)}["nvfp4"].native


def test_a_quantised_checkpoint_is_planned_for_as_it_is_stored() -> None:
    for name, word in (("tiny_nvfp4", "nvfp4"), ("tiny_fp8", "fp8")):
        folder = ROOT / "tests" / "golden" / "quantised" / name
        done = CliRunner().invoke(program, ["plan", str(folder), "--json"])
        assert json.loads(done.stdout)["assumed"]["experts"] == {"context": word, "denoiser": word}
        told = CliRunner().invoke(program, ["plan", str(folder), "--experts", "plain", "--json"])
        assert json.loads(told.stdout)["assumed"]["experts"] == {"context": "plain", "denoiser": "plain"}
    config = load_config(ROOT / "ttc" / "miniature")[1]
    assert stored_formats(ROOT / "ttc" / "miniature", config) == ExpertFormats()


def test_the_instructions_are_those_that_were_counted() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "kernel_instructions.json").read_text())
    words = {kind.codes: word for word, kind in WEIGHT_FORMATS.items() if kind.family is not None}
    fewest: dict[tuple[str, str], float] = {}
    for kernel in record["kernels"]:
        if kernel["stored"] in words:
            key = kernel["target"], words[kernel["stored"]]
            fewest[key] = min(kernel["instructions_a_weight"], fewest.get(key, 99.0))
    listed = {
        (f"{major}.{minor}", word): count
        for (major, minor), counts in INSTRUCTIONS.items()
        for word, count in counts.items()
    }
    assert listed == {key: fewest[key] for key in listed}
