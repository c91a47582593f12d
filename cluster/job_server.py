"""A cluster's job server: which jobs it has, their logs, how they stand, and stopping them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from whylens.errors import UsageError, WhylensError

# Between two looks at a job that is waited for, and until a server that is silent is given up.
SECONDS, PATIENCE = 1.0, 60.0
# Until a job that was told to stop has stopped: its driver has STOPPING seconds to say so.
STOPPING = 30


class JobServer:
    """Ray's job server at an address.

    Tokens are Ray's own (RAY_AUTH_MODE, RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH), further headers
    RAY_JOB_HEADERS.

    Parameters
    ----------
    address
        http://HOST:8265 or https://...; without a scheme, http.
    certificates
        A file or folder of certificates to trust, for https.

    Raises
    ------
    UsageError
        If no job server answers at the address, or it does not let us in.
    """

    def __init__(self, address: str, certificates: str | None = None) -> None:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        self.address = address
        # They tell of each package that they make and send.
        for name in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        # Without a scheme Ray takes an address for its own head's, and tries that for a minute.
        url = address if "://" in address else f"http://{address}"
        try:
            self.client: Any = JobSubmissionClient(
                url, headers=_headers(), verify=certificates or True
            )
        except FileNotFoundError as error:
            raise UsageError(f"there are no certificates at {certificates}") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray job server answers at {address}: {str(error).splitlines()[0]}"
            ) from error
        except AuthenticationError as error:
            raise UsageError(
                f"the Ray job server at {address} asks for a token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
            ) from error

    def jobs(self) -> list[Any]:
        """Submitted jobs as Ray's JobDetails, the latest first."""
        with self.asking():
            found = [job for job in self.client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: -(job.start_time or 0))

    def job(self, identifier: str) -> Any:
        """A submitted job as Ray's JobDetails.

        Raises
        ------
        UsageError
            If there is none of that id.
        """
        with self.asking(identifier):
            return self.client.get_job_info(identifier)

    def log(self, identifier: str) -> str:
        """All that a job has written so far."""
        with self.asking(identifier):
            log: str = self.client.get_job_logs(identifier)
            return log

    def follow(self, identifier: str, write: Callable[[str], None]) -> Any:
        """Pass on what a job writes until it ends; the job then.

        A connection that breaks is made again, and goes on where it was.

        Raises
        ------
        WhylensError
            If the server does not answer for a minute. The job may go on.
        """
        seen, silent_since = 0, None

        async def tail() -> None:
            nonlocal seen
            passed = 0
            async for lines in self.client.tail_job_logs(identifier):
                new = lines[max(0, seen - passed) :]
                passed += len(lines)
                seen = max(seen, passed)
                if new:
                    write(new)

        self.job(identifier)
        while True:
            try:
                asyncio.run(tail())
            except Exception as error:
                # What aiohttp and Ray raise where a connection breaks has no common type.
                broken: Exception | None = error
            else:
                broken = None
            try:
                job = self.job(identifier)
            except UsageError:
                raise
            except WhylensError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE:
                    raise
            else:
                silent_since = None
                if job.status.is_terminal():
                    if broken is not None:
                        write(self.log(identifier)[seen:])
                    return job
            time.sleep(SECONDS)

    def stop(self, identifier: str) -> Any:
        """Stop a job and wait until it has; the job then.

        Raises
        ------
        WhylensError
            If it has not within half a minute more than its driver is given.
        """
        with self.asking(identifier):
            self.client.stop_job(identifier)
        until = time.monotonic() + STOPPING + 30
        while not (job := self.job(identifier)).status.is_terminal():
            if time.monotonic() > until:
                raise WhylensError(f"the job {identifier} was told to stop, and has not yet")
            time.sleep(SECONDS)
        return job

    @contextmanager
    def asking(self, identifier: str | None = None) -> Iterator[None]:
        """Turn what goes wrong with a request into an error with a message.

        Raises
        ------
        UsageError
            If there is no job of that id.
        WhylensError
            If the server does not answer, or refuses.
        """
        try:
            yield
        except OSError as error:  # requests' errors are of this kind
            raise WhylensError(
                f"the job server at {self.address} does not answer: {str(error).splitlines()[0]}"
            ) from error
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise UsageError(
                    f"there is no job {identifier} at {self.address}: whylens jobs list says "
                    "which there are"
                ) from error
            raise WhylensError(
                f"the job server at {self.address} refuses: {str(error).strip().splitlines()[-1]}"
            ) from error


def _headers() -> dict[str, Any]:
    given = os.environ.get("RAY_JOB_HEADERS")
    if not given:
        return {}
    try:
        headers = json.loads(given)
    except ValueError as error:
        raise UsageError(f"RAY_JOB_HEADERS is not JSON: {error}") from error
    if not isinstance(headers, dict):
        raise UsageError("RAY_JOB_HEADERS is not a JSON mapping of headers to values")
    return headers
