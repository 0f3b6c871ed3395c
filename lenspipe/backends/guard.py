"""``python -m lenspipe.backends.guard COMMAND ...``: run a helper of the driver that must not outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel to end this process with its parent, leave Ctrl-C to the parent, and become the command."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
