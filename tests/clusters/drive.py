"""``python -m tests.clusters.drive FLOW --out RUN --site SITE [--set K=V ...] [--allocation]``: toys on any site."""

import argparse
import sys
from pathlib import Path

from lenspipe.backends.site import load_site
from lenspipe.cli import run_workflow
from lenspipe.run.workflow import load
from tests.run import toys

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("flow", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--site")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--allocation", action="store_true")
    given = parser.parse_args()
    site = load_site(given.site, list(toys.STAGES))
    site = site.inside_job() if given.allocation else site
    flow = load(given.flow, given.set, toys.get)
    sys.exit(run_workflow(flow, given.out, site, "tests.run.toys", False, False, "parsl"))
