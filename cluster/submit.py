"""Send a job to a cluster through Ray's job API; whylens travels with it."""

import logging
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
        If no job server answers at the address.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise UsageError(
            f"no Ray job server answers at {address}: {str(error).splitlines()[0]}"
        ) from error
    name = Path(spec).name
    content = Path(spec).read_text(encoding="utf-8")
    identifier = client.submit_job(
        entrypoint=f"python -m whylens.jobs.cli {job} --spec {name}",
        runtime_env={
            "py_modules": [str(_module())],
            "working_dir": str(_working_folder(name, content)),
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


def _module() -> Path:
    """The installed package as a folder with the installed shape, weights and all."""
    import shutil
    import tempfile

    import whylens

    source = Path(whylens.__file__).parent
    target = Path(tempfile.mkdtemp(prefix="whylens-module-")) / "whylens"
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


def _working_folder(name: str, content: str) -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="whylens-job-"))
    (folder / name).write_text(content, encoding="utf-8")
    return folder
