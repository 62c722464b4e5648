"""Dashboard and alerts name metrics and labels that the service has; Prometheus' own tool agrees."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.service import QUESTION, Running, running

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool on the PATH")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
# Labels that Prometheus itself adds.
OUTER = {"job", "instance"}


@pytest.fixture(scope="module")
def served(mini: Path) -> Iterator[Running]:
    with running(mini) as up:
        up.events("/ttc/v1/stream", prompt=QUESTION, max_tokens=20)
        up.post(prompt=QUESTION, mode="lossless", max_tokens=8)
        up.post(promt=1)
        yield up


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana/dashboards/ttc.json").read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return group["rules"]


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    assert len(panels) > 15
    (variable,) = dashboard()["templating"]["list"]
    return [*panels, variable["definition"], *(rule["expr"] for rule in rules())]


def samples(served: Running) -> set[str]:
    """Every name that may stand in an expression."""
    families = served.service.metrics.registry.collect()
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def labels(served: Running) -> dict[str, set[str]]:
    """Label → its values, as far as they have been seen."""
    found: dict[str, set[str]] = {}
    for family in served.service.metrics.registry.collect():
        for sample in family.samples:
            for name, value in sample.labels.items():
                found.setdefault(name, set()).add(value)
    return found


def test_every_metric_that_is_named_exists(served: Running) -> None:
    named = {name for expression in expressions() for name in re.findall(r"\bttc_\w+", expression)}
    assert len(named) > 25
    assert not named - samples(served)


def test_every_label_that_is_named_exists(served: Running) -> None:
    known = labels(served)
    for expression in expressions():
        by = {
            name.strip() for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(",")
        }
        matched = set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', expression))
        assert by | matched <= set(known) | OUTER, expression
        for mode in re.findall(r'mode="(\w+)"', expression):
            assert mode in known["mode"]


def test_the_reasons_that_are_named_exist() -> None:
    from ttc.serving.wire.errors import _KINDS

    codes = {kind.code for kind in _KINDS.values()}
    said = [why for rule in rules() for why in re.findall(r'why=~?"([^"]*)"', rule["expr"])]
    assert said
    assert {code for why in said for code in why.split("|")} <= codes


def test_every_promised_metric_is_on_the_dashboard(served: Running) -> None:
    """A family that nobody draws or alerts on would be found only in an emergency."""
    drawn = " ".join(expressions())
    families = {family.name for family in served.service.metrics.registry.collect()}
    created = {name for name in families if name.endswith("_created")}
    assert not {name for name in families - created if name not in drawn}


def test_the_dashboard_has_one_place_for_each_panel() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert {panel["datasource"]["uid"] for panel in panels} == {source["datasources"][0]["uid"]}


def promtool(*words: object, said: bytes | None = None) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *map(str, words)],
        input=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    text = done.stdout.decode()
    assert done.returncode == 0, text
    return text


@needs_promtool
def test_promtool_takes_rules_and_config(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "prometheus.yaml"
    key = tmp_path / "key"
    key.write_text("a-key-of-prometheus")
    text = config.read_text()
    assert "/run/secrets/prometheus_key" in text
    config.write_text(text.replace("/run/secrets/prometheus_key", str(key)))
    assert f"{len(rules())} rules found" in promtool("check", "config", "--lint-fatal", config)


@needs_promtool
def test_promtool_reads_the_dashboard(tmp_path: Path) -> None:
    """Grafana's own words filled in, each expression as a rule."""
    records = [
        {
            "record": f"panel_{n}",
            "expr": expression.replace("$__rate_interval", "1m").replace("$instance", ".*"),
        }
        for n, expression in enumerate(expressions())
        if not expression.startswith("label_values")
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    assert f"{len(records)} rules found" in promtool("check", "rules", file)


@needs_promtool
def test_every_alert_fires(tmp_path: Path) -> None:
    cases = Path(__file__).with_name("alerts_test.yaml").read_text(encoding="utf-8")
    for rule in rules():
        assert re.search(rf"alertname: {rule['alert']}\n", cases), f"no case where {rule['alert']} fires"
    file = tmp_path / "cases.yaml"
    file.write_text(cases.replace("[RULES]", f"[{DEPLOY / 'prometheus/alerts.yaml'}]"))
    assert "SUCCESS" in promtool("test", "rules", file)


@needs_promtool
def test_promtool_reads_what_the_service_exposes(served: Running) -> None:
    assert promtool("check", "metrics", said=served.client.get("/metrics").content) == ""
