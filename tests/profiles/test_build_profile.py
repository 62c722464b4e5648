"""Build profiles: every preset is valid and says why; files of one's own are read strictly."""

import dataclasses
from importlib.resources import files

import pytest

from ttc.errors import InputError
from ttc.profiles.build_profile import BuildProfile, Range, build_preset_names, load_build_profile

NAMES = (
    "a100",
    "b200",
    "dgx-spark",
    "h100",
    "h200",
    "l40s",
    "latency",
    "long-context",
    "rtx-5090",
    "rtx-pro-6000",
    "throughput",
)
LATENCY = files("ttc.profiles").joinpath("presets", "latency.toml").read_text("utf-8")


def test_the_presets() -> None:
    assert tuple(build_preset_names()) == NAMES
    for name in NAMES:
        profile = load_build_profile(name)
        assert profile.name == name
        text = files("ttc.profiles").joinpath("presets", f"{name}.toml").read_text("utf-8")
        # A reason stands above the file and above every table.
        blocks = text.split("\n\n")
        assert text.startswith("# ")
        assert all(block.startswith("#") for block in blocks if "[" in block and "min =" in block)


def test_sizes_of_a_graph() -> None:
    profile = BuildProfile("p", Range(1, 2, 4), Range(8, 16, 32), Range(1, 64, 128), Range(64, 256, 512))
    assert profile.sizes("context", "min") == {"B": 1, "L": 1, "C": 64, "R": 1}
    assert profile.sizes("context", "opt") == {"B": 2, "L": 16, "C": 256, "R": 1}
    assert profile.sizes("context", "max") == {"B": 4, "L": 128, "C": 512, "R": 32}
    assert profile.sizes("denoiser", "min")["L"] == 8
    assert profile.sizes("step", "max")["L"] == 32
    changed = profile.override({"batch": {"max": 9}})
    assert changed.batch == Range(1, 2, 9)
    assert dataclasses.replace(changed, batch=profile.batch) == profile


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("targets = []", "targets = []\nspeed = 1", "unknown or missing keys: speed"),
        ("targets = []", "", "unknown or missing keys: targets"),
        ("targets = []", "targets = [89]", "targets is"),
        ('"any"', '"int4"', "precision is 'int4'; valid: any, float32"),
        ("max = 128", "max = 1024", "chunk.max is 1024"),
        ("max = 128", "max = 1.5", "chunk.max is 1.5"),
        ("max = 128", "max = true", "chunk.max is True"),
        ("max = 128", "max = 0", "chunk.max is 0"),
        ("max = 128", "max = 2", "min 128, opt 128, max 2; valid: min ≤ opt ≤ max"),
        ("max = 128", "most = 2", "unknown or missing keys: max, most"),
        ("[chunk]", "[chunks]", "unknown or missing keys: chunk, chunks"),
        ("max = 8192", "max = 8\nmin = 1", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, old, new, complaint) -> None:
    assert old in LATENCY
    path = tmp_path / "own.toml"
    path.write_text(LATENCY.replace(old, new))
    with pytest.raises(InputError, match=complaint):
        load_build_profile(path)


def test_a_block_beyond_the_cache_is_refused() -> None:
    with pytest.raises(InputError, match=r"block.max is 64, more than capacity.max 32"):
        BuildProfile("p", Range(1, 1, 1), Range(1, 16, 64), Range(1, 1, 1), Range(8, 16, 32))
