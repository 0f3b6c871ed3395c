"""One job of HTCondor's that runs ``lenspipe doctor`` where candidates would be fitted."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lenspipe.backends import condor
from lenspipe.backends.dagman import event_log
from lenspipe.backends.dagman.files import render
from lenspipe.backends.dagman.options import Dagman, fill
from lenspipe.backends.site import Site

_ENDED = ("done", "failed", "removed", "held")


def probe_job(site: Site, settings: Dagman) -> str:
    """Text of the job, with what the site says of those of a run."""
    return render(
        "probe.sub",
        image=fill(settings.image, "dagman.image"),
        executable=settings.executable,
        requirements=settings.requirements,
        duration=settings.duration,
        project=fill(site.account, "account"),
        options=settings.options,
    )


def ask(site: Site, settings: Dagman, folder: Path, minutes: float) -> tuple[event_log.Job, dict[str, Any] | None]:
    """What became of the job, and what it printed, None where that is not an answer of the doctor's.

    A job that has not ended within `minutes`, or is held, is removed. `LenspipeError` where it cannot be submitted.
    """
    (folder / "probe.sub").write_text(probe_job(site, settings), encoding="utf-8")
    condor.call("condor_submit", "probe.sub", folder=folder)
    end = time.monotonic() + 60 * minutes
    while not (found := list(event_log.jobs(folder / "probe.log").values())) or found[0].state not in _ENDED:
        if time.monotonic() > end:
            break
        time.sleep(1)
    job = found[0] if found else event_log.Job("")
    if job.id and job.state in ("idle", "running", "held"):
        condor.call("condor_rm", job.id)
    answer = None
    with suppress(OSError, ValueError):
        answer = json.loads((folder / "probe.out").read_text(encoding="utf-8"))
    return job, answer
