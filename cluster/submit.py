"""Send a job to a cluster through Ray's job API; whylens and what the spec names travel with it."""

import logging
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from whylens.cluster.baggage import VERSIONS, check_size, pack, package
from whylens.cluster.job_server import STOPPING, JobServer
from whylens.errors import UsageError

logger = logging.getLogger(__name__)


def submit(
    server: JobServer,
    job: str,
    spec: Path,
    *,
    assignments: Sequence[str] = (),
    files: Mapping[str, str],
    variables: Mapping[str, str],
    about: Mapping[str, str],
    identifier: str | None = None,
    any_versions: bool = False,
) -> str:
    """Submit a job with its spec file; the job's id.

    Parameters
    ----------
    assignments
        PATH=VALUE for settings above the file's.
    files
        Relative paths of the files and folders that travel, and the settings that name them.
    variables
        Environment variables of the job and its workers.
    about
        What the job server keeps with the job for whoever lists it.
    identifier
        The id that the job is to have; one of Ray's making if None.
    any_versions
        Whether the job goes on where the cluster's packages do not fit what whylens needs.

    Raises
    ------
    UsageError
        If the files are too large to travel, or a job has that id already.
    WhylensError
        If the server does not answer any more, or refuses.
    """
    size = check_size(files)
    if files:
        logger.info("%.1f MB of files travel along: %s", size / 1e6, ", ".join(files))
    words = [f"--spec {shlex.quote(spec.name)}"]
    words += [f"--set {shlex.quote(assignment)}" for assignment in assignments]
    check = f"python -m whylens.cluster.versions {VERSIONS}"
    with tempfile.TemporaryDirectory(prefix="whylens-job-") as folder:
        working = pack(spec, files, Path(folder, "working.zip"))
        module = package(Path(folder, "whylens"))
        if identifier and identifier in {job.submission_id for job in server.jobs()}:
            raise UsageError(f"{server.address} has a job {identifier} already: name another id")
        # Ray sends both before it returns. `exec`: what is told to stop is the job, no shell.
        with server.asking(identifier):
            submitted: str = server.client.submit_job(
                entrypoint=f"{check}{' --any-versions' if any_versions else ''} && "
                f"exec python -m whylens.jobs.cli {job} {' '.join(words)}",
                submission_id=identifier,
                runtime_env={
                    "py_modules": [str(module)],
                    "working_dir": str(working),
                    # A bucket may take longer to note the end than the 3 s that Ray waits.
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING), **variables},
                },
                metadata=dict(about),
            )
    logger.info("submitted as %s", submitted)
    return submitted
