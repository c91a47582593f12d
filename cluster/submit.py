"""Send a job to a cluster through Ray's job API; whylens travels with it."""

import logging
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from whylens.errors import UsageError, WhylensError

logger = logging.getLogger(__name__)

PACKAGES = ("kernels", "cluster", "jobs", "dashboard")


def submit(job: str, spec: str, *, address: str, wait: bool) -> str:
    """Submit a job with its spec file; the job's id, or with `wait` its final status.

    Raises
    ------
    UsageError
        If no job server answers at the address, or it does not let us in.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobStatus, JobSubmissionClient

    # Without a scheme Ray takes an address for its own head's, and tries that for a minute.
    url = address if "://" in address else f"http://{address}"
    try:
        client = JobSubmissionClient(url)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray job server answers at {address}: {str(error).splitlines()[0]}"
        ) from error
    except AuthenticationError as error:
        raise UsageError(
            f"the Ray job server at {address} asks for a token: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        ) from error
    name = Path(spec).name
    with tempfile.TemporaryDirectory(prefix="whylens-job-") as folder:
        working = Path(folder, "working")
        working.mkdir()
        shutil.copyfile(spec, working / name)
        # Ray sends both folders before it returns.
        identifier = client.submit_job(
            entrypoint=f"python -m whylens.jobs.cli {job} --spec {shlex.quote(name)}",
            runtime_env={
                "py_modules": [str(_module(Path(folder, "whylens")))],
                "working_dir": str(working),
            },
        )
    logger.info("submitted as %s", identifier)
    if not wait:
        return str(identifier)
    seen = 0
    while True:
        log: Any = client.get_job_logs(identifier)
        if len(log) > seen:
            logger.info("%s", log[seen:].rstrip())
            seen = len(log)
        status = client.get_job_status(identifier)
        if status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED):
            return str(status.value)
        time.sleep(1.0)


def _module(target: Path) -> Path:
    """The installed package as a folder with the installed shape, weights and all."""
    import whylens

    source = Path(whylens.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, target, ignore=ignore)
    for part in PACKAGES:
        # In an editable install these folders lie beside the package, not inside it.
        if not (target / part).is_dir():
            beside = source.parent / part
            if not beside.is_dir():
                raise WhylensError(f"whylens.{part} is not where the package is: install whylens")
            shutil.copytree(beside, target / part, ignore=ignore)
    return target
