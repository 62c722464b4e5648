"""docs/quantised.md: its commands run, its sizes and its table are what was found."""

import json
import re
from pathlib import Path

from benchmarks.quantised_quality import row
from tests.support.commands import command_environment, run_block
from ttc.model.config import ModelConfig
from ttc.planning.expert_formats import ExpertFormats
from ttc.planning.models import released_config
from ttc.planning.passes import tower_bytes

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "quantised.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "benchmarks" / "results" / "quantised_quality.json").read_text())


def test_its_commands_run(tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- test -->\n```console\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "ttc").mkdir()
    (tmp_path / "ttc" / "miniature").symlink_to(ROOT / "ttc" / "miniature")
    script = "".join(line.removeprefix("$ ") + "\n" for line in block.splitlines())
    shown = run_block("console", script, tmp_path, command_environment(tmp_path / "bin"))
    assert "verdict: passed" in shown
    assert "matrices of routed experts in nvfp4, context tower" in shown


def test_its_sizes_are_the_plans() -> None:
    config = ModelConfig.from_hf(released_config())
    for words, size in (
        (("plain",), "126.4 GB"),
        (("int8", "fp8"), "67.7 GB"),
        (("nvfp4", "int4"), "41.9 GB"),
    ):
        for word in words:
            assert f"{sum(tower_bytes(config, 2, ExpertFormats(word, word)).values()) / 1e9:.1f} GB" == size
        (line,) = [
            line for line in TEXT.splitlines() if line.startswith(f"| `{words[0]}`") and "byte" in line
        ] or [line for line in TEXT.splitlines() if line.startswith("| plain (bfloat16)")]
        assert size in line


def test_its_table_is_the_record() -> None:
    for variant in RECORD["variants"]:
        assert row(variant) in TEXT


def test_the_record_keeps_the_limits() -> None:
    """What formats may cost: 8 bits nearly nothing, NVFP4 few of the answers."""
    by_name = {variant["name"]: variant for variant in RECORD["variants"]}
    plain = by_name["bf16"]
    for word in ("int8", "fp8"):
        assert by_name[word]["same_text"] >= 0.98 * plain["problems"]
        low, high = plain["diffusion_interval"]
        assert low <= by_name[word]["diffusion_right"] / plain["problems"] <= high
    assert by_name["nvfp4"]["ar_right"] >= 0.99 * plain["ar_right"]
    assert by_name["nvfp4"]["diffusion_right"] >= 0.94 * plain["diffusion_right"]
    # Why the other layers stay as they are.
    assert by_name["nvfp4, all linears"]["diffusion_right"] < 0.94 * plain["diffusion_right"]
