"""What must not outlive the driver.

``python -m lenspipe.backends.guard COMMAND ...`` runs a helper that ends with it; ``--gently`` before the command asks
it to end (SIGTERM), for one that has processes of its own to end.
``python -m lenspipe.backends.guard --jobs SYSTEM NAME`` waits for the end of its standard input, which is that of the
driver, and then ends the jobs of Slurm or HTCondor that bear this name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_ROUNDS = 30


def main() -> None:
    if sys.argv[1] == "--jobs":
        end_jobs(sys.argv[2], sys.argv[3])
    elif sys.argv[1] == "--gently":
        end_with_parent(sys.argv[2:], signal.SIGTERM)
    else:
        end_with_parent(sys.argv[1:], signal.SIGKILL)


def end_with_parent(command: list[str], by: signal.Signals) -> None:
    """Ask the kernel to end this process with its parent, leave Ctrl-C to the parent, and become the command."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:  # it died before the request
            sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.execvp(command[0], command)


def end_jobs(system: str, name: str) -> None:
    from lenspipe.backends import condor, slurm
    from lenspipe.errors import LenspipeError

    cancel = {"slurm": slurm.cancel, "condor": condor.cancel}[system]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the driver decides when it ends
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    quiet = False
    for _ in range(_ROUNDS):  # a job may have been on its way to the queue, and the batch system may be slow to answer
        with contextlib.suppress(LenspipeError):
            found = cancel(name)
            if not found and quiet:
                return
            quiet = not found
        time.sleep(2)


if __name__ == "__main__":
    main()
