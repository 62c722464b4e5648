"""The Ray cluster of deploy/rayservice.yaml names what exists. Ray itself need not be installed for it."""

import ast
import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttc.serving.service.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
# The fields of KubeRay's `ray.io/v1` that this file may use, from its RayServiceSpec, RayClusterSpec,
# HeadGroupSpec and WorkerGroupSpec; those that must be there say so.
SERVICE_FIELDS = {"serveConfigV2", "rayClusterConfig", "serveService"}
CLUSTER_FIELDS = {
    "rayVersion",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
HEAD_NEEDS = {"rayStartParams", "template"}
HEAD_FIELDS = HEAD_NEEDS | {"serviceType", "headService", "enableIngress"}
WORKER_NEEDS = {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"}
WORKER_FIELDS = WORKER_NEEDS | {"replicas", "numOfHosts", "scaleStrategy", "idleTimeoutSeconds"}
ADAPTER = ast.parse((ROOT / "serving/adapters/ray.py").read_text(encoding="utf-8"))


@pytest.fixture
def service() -> Any:
    return yaml.safe_load((ROOT / "deploy/rayservice.yaml").read_text(encoding="utf-8"))["spec"]


@pytest.fixture
def application(service: Any) -> Any:
    (one,) = yaml.safe_load(service["serveConfigV2"])["applications"]
    return one


def pods(service: Any) -> list[Any]:
    cluster = service["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def cluster_fields() -> set[str]:
    (made,) = [one for one in ADAPTER.body if isinstance(one, ast.ClassDef) and one.name == "Cluster"]
    return {
        one.target.id
        for one in made.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }


def test_its_fields_are_those_that_kuberay_reads(service: Any) -> None:
    """An unknown field is dropped by the API server, or refused."""
    cluster = service["rayClusterConfig"]
    assert set(service) <= SERVICE_FIELDS
    assert set(cluster) <= CLUSTER_FIELDS
    assert HEAD_NEEDS <= set(cluster["headGroupSpec"]) <= HEAD_FIELDS
    for group in cluster["workerGroupSpecs"]:
        assert WORKER_NEEDS <= set(group) <= WORKER_FIELDS
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        # map[string]string: a bare number is refused.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_application_and_its_arguments_exist(application: Any) -> None:
    module, name = application["import_path"].split(":")
    assert module == "ttc.serving.adapters.ray"
    assert name in {one.name for one in ADAPTER.body if isinstance(one, ast.FunctionDef)}
    arguments, mine = application["args"], cluster_fields()
    assert {"replicas", "max_replicas", "gpus", "scale_up_seconds"} <= mine
    others = {name: value for name, value in arguments.items() if name not in mine}
    assert set(others) <= {field.name for field in dataclasses.fields(Settings)}
    # As the adapter reads them: values are text.
    read_settings({}, environment={f"TTC_{name.upper()}": str(value) for name, value in others.items()})


def test_there_are_gpus_for_all_replicas(service: Any, application: Any) -> None:
    (workers,) = service["rayClusterConfig"]["workerGroupSpecs"]
    arguments = application["args"]
    assert workers["minReplicas"] == workers["replicas"] == arguments["replicas"]
    assert workers["maxReplicas"] == arguments["max_replicas"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == arguments["gpus"] == 1


def test_files_are_where_the_arguments_say(service: Any, application: Any) -> None:
    arguments = application["args"]
    for pod in pods(service):
        (container,), (copying,) = pod["containers"], pod["initContainers"]
        assert copying["command"] == ["install", "-m", "600", "/secret/keys", arguments["api_key_file"]]
        for one in (container, copying):
            assert {mount["name"] for mount in one["volumeMounts"]} <= {
                volume["name"] for volume in pod["volumes"]
            }
        assert pod["terminationGracePeriodSeconds"] >= arguments["drain_seconds"] + 10
    mounted = {mount["mountPath"] for mount in pods(service)[1]["containers"][0]["volumeMounts"]}
    assert {str(Path(arguments[name]).parent) for name in ("bundle", "engines")} <= mounted


def test_the_version_is_one_that_the_extra_takes(service: Any) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (need,) = [one for one in extras["ray"] if one.startswith("ray[")]
    least = re.search(r">=(\d+)\.(\d+)", need)
    assert least is not None
    version = tuple(map(int, service["rayClusterConfig"]["rayVersion"].split(".")))
    assert tuple(map(int, least.groups())) <= version < (3,)


def test_the_port_of_the_probes_is_that_of_the_door(service: Any) -> None:
    port = yaml.safe_load(service["serveConfigV2"])["http_options"]["port"]
    worker = pods(service)[1]["containers"][0]
    assert f"http://127.0.0.1:{port}/-/healthz" in worker["readinessProbe"]["exec"]["command"][-1]
    assert {"name": "serve", "containerPort": port} in worker["ports"]
