"""What whylens does: each job with its spec and its run; the command and the report."""
