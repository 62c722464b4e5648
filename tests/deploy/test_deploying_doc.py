"""docs/deploying.md: its keys are made as the service takes them, its tables are those of the files."""

import re
from pathlib import Path

import yaml

from tests.house.test_docs import ROOT, blocks, read
from tests.support.commands import command_environment, run_block
from ttc.serving.service.auth import read_keys

DOCUMENT = "docs/deploying.md"


def test_the_keys_are_made(tmp_path: Path) -> None:
    (block,) = [block for block in blocks(read(DOCUMENT)) if block.tested]
    run_block(block.kind, block.script(), tmp_path, command_environment(tmp_path / "bin"))
    secrets = tmp_path / "secrets"
    keys = read_keys(secrets / "keys")
    assert set(keys) == {"prometheus", "ada"}
    assert (secrets / "prometheus_key").read_text() == keys["prometheus"]
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    assert {Path(one["file"]).name for one in compose["secrets"].values()} == {
        path.name for path in secrets.iterdir()
    }


def test_every_alert_is_explained() -> None:
    (group,) = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())["groups"]
    told = set(re.findall(r"`(Ttc\w+)`", read(DOCUMENT)))
    assert told == {rule["alert"] for rule in group["rules"]}
    table = read(DOCUMENT).split("| alert |", 1)[1].split("\n\n", 1)[0]
    urgent = {rule["alert"] for rule in group["rules"] if rule["labels"]["severity"] == "page"}
    assert set(re.findall(r"`(Ttc\w+)`", table)) == urgent
