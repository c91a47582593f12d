"""`python -m whylens.jobs.cli`: the whylens command where no script is installed."""

from whylens.jobs.cli.commands import main

main()
