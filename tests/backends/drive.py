"""``python -m tests.backends.drive FLOW OUT PER_TASK MINUTES_FACTOR [K=V ...]``: toy stages under Parsl."""

import sys
from pathlib import Path

from lenspipe.backends.site import Site
from lenspipe.cli import run_workflow
from lenspipe.run.workflow import load
from tests.run import toys

if __name__ == "__main__":
    path, out, per_task, factor, *sets = sys.argv[1:]
    site = Site(name="test", cores=2, per_task={"work": int(per_task)}, minutes_factor=float(factor))
    flow = load(Path(path), sets, toys.get)
    sys.exit(run_workflow(flow, Path(out), site, "tests.run.toys", False, False, "parsl"))
