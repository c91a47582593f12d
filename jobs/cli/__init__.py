"""The whylens command."""

from whylens.jobs.cli.commands import main

__all__ = ["main"]
