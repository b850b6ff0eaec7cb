"""A script that outlives its parent by a moment: stops the processes named on stdin when stdin closes.

Each line is ``+PID SIGNAL`` or ``-PID``. The parent holds the other end of the pipe, so the end comes by
whatever way the parent ends, kill -9 included. Run as a file, with the standard library alone.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_SECONDS = 10.0


def follow(lines: Iterable[str]) -> dict[int, int]:
    """Processes still named when the lines end, with the signal that stops each."""
    watched: dict[int, int] = {}
    for line in lines:
        words = line.split()
        if line.startswith("+"):
            watched[int(words[0][1:])] = int(words[1])
        else:
            watched.pop(int(words[0][1:]), None)
    return watched


def end(watched: dict[int, int]) -> None:
    """Signal each process, give all of them the grace time, then kill what is left."""
    left = {pid for pid, number in watched.items() if send(pid, number)}
    deadline = time.monotonic() + GRACE_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {pid for pid in left if send(pid, 0)}
    for pid in left:
        send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> bool:
    """Whether the process was there to be signalled."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    end(follow(sys.stdin))
