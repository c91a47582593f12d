"""Errors meant for the user: what is wrong, where, and what to do about it."""

# The exit code after SIGTERM.
TERMINATED = 143


class WhylensError(Exception):
    """The job can't go on; the message is shown without a traceback (exit code 1)."""


class UsageError(WhylensError):
    """What the user asked for can't be done as asked: a name, a path, a setting (exit code 2)."""


class UnfinishedError(WhylensError):
    """Units of a stage failed, more than the job tolerates; the message says how many and why."""
