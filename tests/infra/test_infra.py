"""What is deployed fits the package: specs, commands and paths in infra/ are real ones."""

import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from whylens.jobs.investigate import InvestigateSpec
from whylens.jobs.registry import jobs
from whylens.jobs.spec import make_spec

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DOCKERFILE = INFRA / "docker" / "Dockerfile"


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict]:
    text = (INFRA / "kuberay" / "rayjob-investigate.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def cluster(manifests) -> dict:
    return manifests["RayJob"]["spec"]["rayClusterSpec"]


@pytest.fixture(scope="module")
def launcher() -> dict:
    return yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def instructions() -> list[list[str]]:
    """The Dockerfile's instructions as words, continuation lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


def containers(group: dict) -> list[dict]:
    return group["template"]["spec"]["containers"]


def test_the_rayjob_has_what_kuberay_requires(manifests, cluster):
    job = manifests["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?", job["metadata"]["name"])
    assert isinstance(job["spec"]["entrypoint"], str)
    assert cluster["rayVersion"] == metadata.version("ray")
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for group in (head, *workers):
        # KubeRay takes Ray's options as strings only.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in containers(group):
            assert container["image"] == "whylens:gpu"
            assert container["resources"]["requests"] == container["resources"]["limits"]
    names = [group["groupName"] for group in workers]
    assert names
    assert len(set(names)) == len(names)


def test_the_spec_in_the_configmap_is_accepted_and_fits_the_cluster(manifests, cluster):
    spec = make_spec(InvestigateSpec, yaml.safe_load(manifests["ConfigMap"]["data"]["spec.yaml"]))
    assert spec.out.startswith("s3://")
    (group,) = cluster["workerGroupSpecs"]
    fewest, most = spec.placement.workers
    assert cluster["enableInTreeAutoscaling"] is True
    assert fewest <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert group["maxReplicas"] >= most
    limits = containers(group)[0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= spec.placement.num_gpus > 0
    assert int(limits["cpu"]) >= spec.placement.num_cpus


def test_the_entrypoint_is_a_whylens_command_on_the_mounted_spec(manifests, cluster):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    program, job, option, path = shlex.split(manifests["RayJob"]["spec"]["entrypoint"])
    assert program in scripts
    assert job in jobs()
    assert option == "--spec"
    # The job's process runs on the head: the ConfigMap has to be mounted there.
    head = cluster["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    (volume,) = [v for v in head["volumes"] if v["name"] == mount["name"]]
    config = manifests["ConfigMap"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert Path(path).parent == Path(mount["mountPath"])
    assert Path(path).name in config["data"]


def test_the_launcher_file_passes_rays_own_checks(launcher):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(launcher))
    types = launcher["available_node_types"]
    assert launcher["head_node_type"] in types
    worker = types["gpu"]
    assert 1 <= worker["min_workers"] <= worker["max_workers"] <= launcher["max_workers"]
    assert worker["resources"]["GPU"] >= 1
    starts = [*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]]
    assert sum("ray start" in command for command in starts) == 2


def test_a_misspelt_launcher_file_would_be_seen(launcher):
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(Exception, match="max_wokers"):
        validate_config({**launcher, "max_wokers": 3})


def test_the_image_copies_what_is_there_and_every_package(instructions):
    copied = [word for i in instructions if i[0] == "COPY" for word in i[1:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = set(project["tool"]["setuptools"]["package-dir"].values())
    needed = folders | {
        "pyproject.toml",
        "setup.py",
        "requirements.lock",
        project["project"]["readme"],
    }
    assert needed <= set(copied)
    # What is copied has to be in the build's context, too.
    shown = (INFRA / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in shown if line.startswith("!")} == set(copied)


def test_the_image_installs_the_locked_versions_of_either_extra(instructions):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (default,) = [i[1].removeprefix("EXTRA=") for i in instructions if i[1].startswith("EXTRA=")]
    assert {default, "gpu"} <= set(extras)
    (install,) = [i for i in instructions if i[:3] == ["RUN", "pip", "install"]]
    assert install[install.index("-c") + 1] == "requirements.lock"
    assert ".[${EXTRA},bundled]" in install


def test_the_image_is_plain_and_runs_as_nobody_special(instructions):
    assert instructions[0] == ["FROM", "python:3.11-slim"]
    users = [i[1] for i in instructions if i[0] == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    # KubeRay replaces the command by `ray start`: an entry point of ours would swallow it.
    assert not any(i[0] == "ENTRYPOINT" for i in instructions)
