"""The manifests of the cluster guide: they fit their schemas, and say what the guide says of them.

`ray up`'s schema is that of the installed Ray. `rayjob_schema.json` is our own: its fields are those of KubeRay's API
reference for ray.io/v1 at v1.7.0 (docs/reference/api.md of ray-project/kuberay, made from the operator's Go types); of
Kubernetes' pod it knows what we use.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.documents.commands import parse_job
from tests.jobs.cluster.test_cluster_guide import GUIDE
from tests.jobs.head import ROOT

SCHEMA = json.loads(Path(__file__).with_name("rayjob_schema.json").read_text())
GIBIBYTE = 2**30
UNITS = {"Mi": 2**20, "Gi": GIBIBYTE, "Ti": 2**40}


def read(name: str) -> dict[str, Any]:
    values = yaml.safe_load((GUIDE / name).read_text())
    assert isinstance(values, dict)
    return values


def test_the_cluster_fits_rays_schema() -> None:
    prepared = prepare_config(read("ray-cluster.yaml"))
    validate_config(prepared)  # raises if it does not fit
    assert prepared["available_node_types"].keys() == read("ray-cluster.yaml")["available_node_types"].keys()


@pytest.mark.parametrize("wrong", ["head_node_types", "setup_command"])
def test_a_misspelt_key_of_the_cluster_is_found(wrong: str) -> None:
    cluster = read("ray-cluster.yaml")
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**cluster, wrong: []}))


def test_the_cluster_has_a_head_without_work_gpu_nodes_and_cpu_nodes() -> None:
    cluster = read("ray-cluster.yaml")
    nodes = {name: node["resources"] for name, node in cluster["available_node_types"].items()}
    assert nodes[cluster["head_node_type"]] == {"CPU": 0, "GPU": 0}
    workers = [resources for name, resources in nodes.items() if name != cluster["head_node_type"]]
    assert sorted("GPU" in resources for resources in workers) == [False, True]
    start = " ".join(cluster["head_start_ray_commands"])
    assert "--num-cpus=0" in start
    assert "--num-gpus=0" in start


def test_the_clusters_setup_installs_what_the_project_needs(tmp_path: Path) -> None:
    command = read("ray-cluster.yaml")["setup_commands"][0]
    file = "requirements.txt"
    for there, here in (
        (f"/tmp/{file}", str(tmp_path / file)),
        ("/home/ray/ccvid", str(ROOT)),
        ("python -c", f"{sys.executable} -c"),
    ):
        command = command.replace(there, here)
    subprocess.run(command, shell=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["tune"]]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == needed


def problems(job: Mapping[str, Any]) -> list[str]:
    return [f"{found.json_path}: {found.message}" for found in jsonschema.Draft7Validator(SCHEMA).iter_errors(job)]


def pods(job: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each group's pod."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def test_the_rayjob_fits_its_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert problems(read("rayjob.yaml")) == []


SPEC: tuple[str | int, ...] = ("spec",)
CLUSTER = (*SPEC, "rayClusterSpec")
HEAD = (*CLUSTER, "headGroupSpec")
GROUP = (*CLUSTER, "workerGroupSpecs", 0)
POD = (*GROUP, "template", "spec")
CONTAINER = (*POD, "containers", 0)


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (CLUSTER, "rayClusterSpecs"),
        ((*SPEC, "ttlSecondsAfterFinished"), "ttlSecondAfterFinished"),
        (HEAD, "headGroup"),
        ((*HEAD, "rayStartParams"), "rayStartParameters"),
        ((*GROUP, "maxReplicas"), "maxReplica"),
        ((*CONTAINER, "volumeMounts"), "volumeMount"),
        ((*CONTAINER, "resources", "limits", "nvidia.com/gpu"), "gpu"),
        ((*POD, "volumes", 1, "emptyDir"), "emptydir"),
    ],
)
def test_a_misspelt_key_of_the_rayjob_is_found(place: tuple[str | int, ...], new: str) -> None:
    job = read("rayjob.yaml")
    above = _at(job, place[:-1])
    above[new] = above.pop(place[-1])
    assert problems(job)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("apiVersion",), "ray.io/v1alpha1"),
        ((*SPEC, "submissionMode"), "K8sJob"),
        ((*SPEC, "activeDeadlineSeconds"), 0),
        ((*HEAD, "rayStartParams", "num-cpus"), 0),  # Kubernetes expects text
        ((*GROUP, "groupName"), "GPU nodes"),
        ((*POD, "volumes", 1, "emptyDir", "sizeLimit"), "220 GiB"),
    ],
)
def test_a_wrong_value_of_the_rayjob_is_found(place: tuple[str | int, ...], wrong: object) -> None:
    job = read("rayjob.yaml")
    _at(job, place[:-1])[place[-1]] = wrong
    assert problems(job)


def _at(job: dict[str, Any], place: tuple[str | int, ...]) -> Any:
    found: Any = job
    for part in place:
        found = found[part]
    return found


def test_the_rayjob_has_a_head_without_work_gpu_pods_and_cpu_pods() -> None:
    job = read("rayjob.yaml")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert {name: "nvidia.com/gpu" in _limits(pod) for name, pod in pods(job).items()} == {
        "head": False,
        "gpu": True,
        "cpu": False,
    }


def _limits(pod: Mapping[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = pod["containers"][0]["resources"]["limits"]
    return limits


def test_what_the_rayjobs_pods_mount_is_there_and_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    job = read("rayjob.yaml")
    cache = parse_job(job["spec"]["entrypoint"], monkeypatch)[0].data.cache
    for name, pod in pods(job).items():
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod.get("volumes", [])}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0].get("volumeMounts", [])}
        assert set(mounts.values()) == volumes.keys()
        if name == "head":
            continue
        assert _bytes(volumes[mounts[str(cache.folder)]]["sizeLimit"]) >= cache.gibibytes * GIBIBYTE
        shared = volumes[mounts["/dev/shm"]]
        assert shared["medium"] == "Memory"
        # Ray uses 30 % of a node's memory for its store, and complains if /dev/shm has less.
        assert _bytes(shared["sizeLimit"]) >= 0.3 * _bytes(_limits(pod)["memory"])


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def test_the_rayjobs_command_goes_on_after_a_failure_and_stores_nothing_on_its_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = read("rayjob.yaml")["spec"]
    recipe, _ = parse_job(spec["entrypoint"], monkeypatch)
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    assert str(recipe.run.storage).startswith("s3://")
    assert str(recipe.data.shards).startswith("s3://")
    assert yaml.safe_load(spec["runtimeEnvYAML"])["working_dir"].endswith(".zip")
    gpus = next(group for group in spec["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
    each = int(_limits(gpus["template"]["spec"])["nvidia.com/gpu"])
    assert recipe.compute.workers == (each * gpus["minReplicas"], each * gpus["maxReplicas"])


def test_both_manifests_have_one_version_of_ray_which_the_project_takes() -> None:
    job, cluster = read("rayjob.yaml"), read("ray-cluster.yaml")
    images = [container["image"] for pod in pods(job).values() for container in pod["containers"]]
    images.append(cluster["docker"]["image"])
    found = {re.findall(r"(\d+\.\d+\.\d+)-py(\d)(\d+)", image)[0] for image in images}
    assert len(found) == 1
    ray_version, *python = found.pop()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray_version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = next(Requirement(line) for line in project["dependencies"] if line.startswith("ray"))
    assert ray_version in needed.specifier
    assert ".".join(python) in SpecifierSet(project["requires-python"])
