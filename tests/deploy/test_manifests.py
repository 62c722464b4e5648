"""What is in deploy/ parses, names what exists, and leaves the drain its time."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttc.serving.app import ROUTES
from ttc.serving.gates import OPEN_PATHS
from ttc.serving.service.settings import environment_names, read_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# Beyond the drain: what ends after it, the last words to clients, and the process.
MARGIN_SECONDS = 10
ANALYZE = shutil.which("systemd-analyze")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@pytest.fixture
def pod() -> Any:
    (deployment,) = [one for one in documents("kubernetes.yaml") if one["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]


def test_all_of_it_parses() -> None:
    names = [path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".json")]
    assert len(names) >= 7
    for path in names:
        assert list(yaml.safe_load_all(path.read_text(encoding="utf-8")))  # JSON is YAML too


def test_every_setting_that_is_named_exists(pod: Any) -> None:
    known = set(environment_names())
    variables = [entry["name"] for entry in pod["containers"][0]["env"]]
    variables += documents("compose.yaml")[0]["services"]["ttc"]["environment"]
    variables += re.findall(r"\b(TTC_\w+)=", (DEPLOY / "Dockerfile").read_text())
    assert len(variables) >= 8
    assert {name for name in variables if name.startswith("TTC_")} <= known
    settings = read_settings({}, DEPLOY / "ttc.toml", {})
    assert settings.drain_seconds == 120


def test_the_probes_ask_what_is_open(pod: Any) -> None:
    """Paths that exist and need no key; live never asks whether it is ready, or a drain would be killed."""
    (service,) = pod["containers"]
    paths = {name: service[name]["httpGet"]["path"] for name in service if name.endswith("Probe")}
    assert set(paths) == {"startupProbe", "readinessProbe", "livenessProbe"}
    assert set(paths.values()) <= {route.path for route in ROUTES} & OPEN_PATHS
    assert paths["livenessProbe"].endswith("/live")
    assert paths["readinessProbe"].endswith("/ready")
    ports = {port["name"] for port in service["ports"]}
    assert {service[name]["httpGet"]["port"] for name in paths} <= ports
    checked = re.search(r"http://127\.0\.0\.1:8000(/[\w/]*)", (DEPLOY / "Dockerfile").read_text())
    assert checked is not None
    assert checked[1] in OPEN_PATHS


def test_the_drain_has_its_time(pod: Any) -> None:
    (service,) = pod["containers"]
    settings = {entry["name"]: entry["value"] for entry in service["env"]}
    before = int(service["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = int(settings["TTC_DRAIN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] >= before + drain + MARGIN_SECONDS
    compose = documents("compose.yaml")[0]["services"]["ttc"]
    grace = int(compose["stop_grace_period"].removesuffix("s"))
    assert grace >= int(compose["environment"]["TTC_DRAIN_SECONDS"]) + MARGIN_SECONDS
    unit = (DEPLOY / "ttc.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    drain_seconds = tomllib.loads((DEPLOY / "ttc.toml").read_text())["drain_seconds"]
    assert int(stop[1]) >= drain_seconds + MARGIN_SECONDS
    # A shell in between would take the signal.
    assert 'ENTRYPOINT ["ttc", "serve"]' in (DEPLOY / "Dockerfile").read_text()


def test_keys_are_where_they_are_looked_for(pod: Any) -> None:
    (service,), (copying,) = pod["containers"], pod["initContainers"]
    file = next(entry["value"] for entry in service["env"] if entry["name"] == "TTC_API_KEY_FILE")
    assert copying["command"][:3] == ["install", "-m", "600"]
    assert copying["command"][-1] == file
    for one in (service, copying):
        mounted = {mount["name"] for mount in one["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}
    compose = documents("compose.yaml")[0]
    assert compose["services"]["ttc"]["environment"]["TTC_API_KEY_FILE"] == "/run/secrets/keys"
    for name, one in compose["services"].items():
        assert set(one["secrets"]) <= set(compose["secrets"]), name
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/secrets/" in ignored


def test_the_image_gets_what_a_wheel_is_made_of() -> None:
    """The same files as the packaging test, and the ignore file lets them through."""
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    folders = {"ttc", "exporter", "plugins", "profiles", "runtime", "serving"}
    assert names == {"pyproject.toml", "README.md", "LICENSE"} | folders
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let == names
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r"^ARG EXTRAS=(\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert asked is not None
    assert set(asked[1].split(",")) <= set(extras)


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on the PATH")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "ttc.service").read_text()
    assert "/opt/ttc/bin/ttc" in unit
    file = tmp_path / "ttc.service"
    file.write_text(unit.replace("/opt/ttc/bin/ttc", str(shutil.which("true"))).replace("=ttc\n", "=root\n"))
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if "ttc.service" in line]
    assert done.returncode == 0, done.stderr
    assert not complaints
