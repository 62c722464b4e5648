"""`ttc generate --mode lossless`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ttc.cli import program

COMMON = ("--ids", "--max-new-tokens", "20", "--no-stop-at-eos")


@pytest.fixture
def tiny(bundles: Callable[..., Path]) -> Path:
    return bundles("tiny_a")


def run(bundle: Path, *options: str) -> Result:
    done = CliRunner().invoke(program, ["generate", str(bundle), "5 6 7", *COMMON, *options])
    assert done.exit_code == 0, done.stderr
    return done


def test_json_tells_the_rounds(tiny: Path) -> None:
    ar = json.loads(run(tiny, "--mode", "ar", "--json").stdout)
    assert ar["lossless"] is None
    asked = json.loads(run(tiny, "--mode", "lossless", "--draft-steps", "2", "--json").stdout)
    assert asked["token_ids"] == ar["token_ids"]
    rounds = asked["lossless"]["rounds"]
    assert asked["nfe_per_block"] == [0, *(each["steps"] for each in rounds)]
    assert all(each["plan"]["steps"] == 2 for each in rounds if each["drafted"] > 1)
    keys = ["rounds", "tokens_per_round", "acceptance_by_place", "costs", "estimates"]
    assert list(asked["lossless"]) == keys, "as stored records have them"
    assert (asked["lossless"]["costs"], asked["lossless"]["estimates"]) == (None, {})
    chosen = json.loads(run(tiny, "--mode", "lossless", "--json").stdout)
    assert chosen["token_ids"] == ar["token_ids"]
    assert chosen["lossless"]["costs"]["ar_step"] > 0
    assert set(chosen["lossless"]["estimates"]) <= {"1", "2"}, "random weights: nothing more is worth a try"


def test_steps_show_every_round(tiny: Path) -> None:
    same = ("--mode", "lossless", "--draft-steps", "2")
    first, second = (run(tiny, *same, "--show-steps") for _ in range(2))
    found = json.loads(run(tiny, *same, "--json").stdout)
    lines = [line for line in first.stderr.splitlines() if " | " in line]
    assert lines == [line for line in second.stderr.splitlines() if " | " in line]
    assert len([line for line in lines if " step " in line]) == found["nfe"]
    ends = [line for line in lines if " drafted in " in line]
    assert len(ends) == len(found["lossless"]["rounds"])
    assert all("[+" in line for line in ends)
    assert f"{len(ends)} rounds, " in first.stderr.splitlines()[-1]
