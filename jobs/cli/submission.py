"""`whylens submit` and `whylens jobs`: jobs on a cluster, sent, followed and stopped from here.

Exit codes, for scripts: 0, the job succeeded (for `stop`: it has ended); 1, it failed; 2, asked for
wrongly; 3, its run is incomplete, within what its spec tolerates; 4, it has not ended (it runs or
waits, or was detached from with Ctrl-C); 5, it was stopped.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whylens.errors import UsageError, WhylensError
from whylens.jobs.cli.running import INCOMPLETE, assign
from whylens.jobs.registry import find

if TYPE_CHECKING:
    from whylens.cluster.job_server import JobServer

logger = logging.getLogger(__name__)

NOT_ENDED, WAS_STOPPED = 4, 5
CODES = (
    "Exit codes: 0 the job succeeded; 1 it failed; 2 asked for wrongly; 3 its run is incomplete; "
    "4 it has not ended; 5 it was stopped."
)

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="Ray's job server, such as https://HEAD:8265."
    ),
]
Certificates = Annotated[
    str | None,
    typer.Option(help="File or folder of certificates to trust, for https:// with your own."),
]
Identifier = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HERE = "http://127.0.0.1:8265"

app = typer.Typer(help="Jobs that were submitted to a cluster.", no_args_is_help=True, epilog=CODES)


def submit(
    job: Annotated[str, typer.Argument(help="The job: investigate, embed, ...")],
    spec: Annotated[str, typer.Argument(help="YAML file with the job's settings.")],
    address: Address = HERE,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting as PATH=VALUE, above the file's.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Environment variable of the job: NAME, with its value here, or NAME=VALUE. Who "
            "may list the cluster's jobs can read it."
        ),
    ] = None,
    submission_id: Annotated[
        str | None, typer.Option(help="The id that the job is to have; Ray makes one if not given.")
    ] = None,
    any_versions: Annotated[
        bool,
        typer.Option(
            "--any-versions", help="Go on where the cluster's packages are not what whylens needs."
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option(help="Follow the job's log until it ends; Ctrl-C leaves it running.")
    ] = True,
    certificates: Certificates = None,
) -> None:
    """Send a job to a Ray cluster; the installed whylens travels with it.

    What the spec names by a relative path travels along, up to 95 MB.

    Full paths and URLs are looked for on the cluster.

    Versions that differ from those here are told before anything runs.
    """
    from whylens.jobs.places import sent
    from whylens.jobs.spec import make_spec, read_yaml

    settings = read_yaml(spec)
    for assignment in assignments or []:
        assign(settings, assignment)
    out = make_spec(find(job).spec, settings).out
    if "://" not in out and not os.path.isabs(out):
        raise UsageError(
            f"out: {out} would be lost with the job's working folder on the cluster: name a full "
            "path that its machines share, or a URL such as s3://bucket/run"
        )
    travelling, there = sent(settings)
    for place in there:
        logger.info("%s is looked for on the cluster: %s", place.setting, place.path)
    variables = dict(map(_variable, env or []))
    server = _server(address, certificates)
    module = importlib.import_module("whylens.cluster.submit")
    identifier = module.submit(
        server,
        job,
        Path(spec),
        assignments=assignments or [],
        files=travelling,
        variables=variables,
        about={"job": job, "out": out},
        identifier=submission_id,
        any_versions=any_versions,
    )
    if wait:
        _follow(server, identifier, log_to_stderr=True)
    else:
        typer.echo(identifier)


@app.command("list")
def list_(
    address: Address = HERE, certificates: Certificates = None, as_json: AsJson = False
) -> None:
    """The jobs of a cluster, the latest first."""
    found = [_about(job) for job in _server(address, certificates).jobs()]
    if as_json:
        typer.echo(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("id", "job", "status", "began (UTC)", "minutes", "out"):
        table.add_column(name, overflow="fold")
    for job in found:
        minutes = "" if job["seconds"] is None else f"{job['seconds'] / 60:.1f}"
        table.add_row(job["id"], job["job"], job["status"], job["began"] or "", minutes, job["out"])
    Console().print(table)


@app.command(epilog=CODES)
def logs(
    identifier: Identifier,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until the job ends; Ctrl-C leaves it running.")
    ] = False,
    address: Address = HERE,
    certificates: Certificates = None,
) -> None:
    """What a job has written."""
    server = _server(address, certificates)
    if follow:
        _follow(server, identifier, log_to_stderr=False)
    else:
        typer.echo(server.log(identifier), nl=False)


@app.command(epilog=CODES)
def status(
    identifier: Identifier,
    address: Address = HERE,
    certificates: Certificates = None,
    as_json: AsJson = False,
) -> None:
    """How a job stands, as Ray and its run's record say; the last line is Ray's one word."""
    job = _server(address, certificates).job(identifier)
    about = _about(job)
    if as_json:
        typer.echo(json.dumps({**about, "run": _record(about["out"])}))
    else:
        typer.echo(f"{about['job']} {identifier}, begun {about['began']}; run: {about['out']}")
        for line in _standing(_record(about["out"])):
            typer.echo(line)
        typer.echo(about["status"])
    raise typer.Exit(_code(job))


@app.command()
def stop(
    identifier: Identifier, address: Address = HERE, certificates: Certificates = None
) -> None:
    """Stop a job, and wait until it has stopped: what is finished is kept in its run."""
    server = _server(address, certificates)
    before = server.job(identifier)
    if before.status.is_terminal():
        typer.echo(f"whylens: the job {identifier} had ended before", err=True)
    else:
        before = server.stop(identifier)
    typer.echo(str(before.status.value))


def _server(address: str, certificates: str | None) -> JobServer:
    server: JobServer = importlib.import_module("whylens.cluster.job_server").JobServer(
        address, certificates
    )
    return server


def _follow(server: JobServer, identifier: str, *, log_to_stderr: bool) -> None:
    """Show a job's log until it ends, then how it ended.

    Raises
    ------
    typer.Exit
        With the job's exit code, or NOT_ENDED after Ctrl-C.
    """

    def write(text: str) -> None:
        typer.echo(text, nl=False, err=log_to_stderr)

    where = "" if server.address == HERE else f" --address {server.address}"
    try:
        job = server.follow(identifier, write)
    except KeyboardInterrupt:
        typer.echo(
            f"\nwhylens: detached: the job goes on. whylens jobs logs {identifier} --follow{where} "
            f"shows it again, whylens jobs stop {identifier}{where} ends it",
            err=True,
        )
        raise typer.Exit(NOT_ENDED) from None
    except WhylensError as error:
        raise WhylensError(
            f"{error}. The job may go on: whylens jobs status {identifier}{where}"
        ) from error
    typer.echo(str(job.status.value), err=not log_to_stderr)
    if not log_to_stderr and job.status.value == "FAILED" and job.driver_exit_code is None:
        typer.echo(f"whylens: {job.message}", err=True)
    raise typer.Exit(_code(job))


def _code(job: Any) -> int:
    """The exit code that says how a job stands."""
    value = job.status.value
    if value == "FAILED":
        return INCOMPLETE if job.driver_exit_code == INCOMPLETE else 1
    return {"SUCCEEDED": 0, "STOPPED": WAS_STOPPED}.get(value, NOT_ENDED)


def _about(job: Any) -> dict[str, Any]:
    """A job in a few words; of jobs that others submitted, their command."""
    kept = job.metadata or {}
    began, ended = job.start_time, job.end_time
    until = ended or time.time() * 1000
    return {
        "id": job.submission_id,
        "job": kept.get("job") or job.entrypoint,
        "out": kept.get("out", ""),
        "status": str(job.status.value),
        "exit_code": job.driver_exit_code,
        "began": began and time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began / 1000)),
        "seconds": round((until - began) / 1000, 1) if began else None,
        "message": job.message,
    }


def _record(out: str) -> dict[str, Any] | None:
    """The run's record where it can be read from here."""
    from whylens.runs import Run

    # Whatever a store raises: a folder of the cluster's own is no error here.
    with suppress(Exception):
        return Run.open(out).record()
    return None


def _standing(record: dict[str, Any] | None) -> list[str]:
    """What a run's record says of how far it is."""
    if record is None:
        return []
    from whylens.cluster.progress import line

    lines = [f"The run is {record['state']}"]
    if record.get("progress"):
        lines.append(line(record["progress"]))
    if record.get("error"):
        lines[0] += f": {record['error']}"
    return lines


def _variable(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise UsageError(f"--env {name}: it is not set here; --env {name}=VALUE gives it a value")
    return name, os.environ[name]
