"""Clusters that are started from the command line: free ports for them, and their end."""

import contextlib
import signal
import socket
import time

import psutil

MARK = "WHYLENS_TEST_CLUSTER"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def stop_marked(mark: str) -> None:
    """End the processes that were started with the mark, and no others."""
    until = time.monotonic() + 60
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == mark:
                    found.append(process)
        if not found:
            return
        assert time.monotonic() < until, f"kill -9 did not end {found}"
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(found, timeout=1)
