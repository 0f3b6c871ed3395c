"""Do fits fail more often when a network's masks start them than when the true classes do?

`benchmarks/segment.py --work DIR` leaves lenses that no training saw in ``DIR/snr/run/test``: images, true classes and
the network's masks. Every lens is fitted three times by the options of workflows/demo.yaml: from the network's masks,
from the true classes, from the image alone. The sampler is cut short, since masks choose where a fit begins and which
pixels count, and that decides the optimum.

A fit has failed where there is none, or where the optimum's theta_E is off by more than a tenth. The figure that counts
is the share of fits that the network's masks spoil beyond those that the true ones do, lens by lens.

Figures are appended to ``--out``, one line a fit; what is in it is not fitted again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from threadpoolctl import threadpool_limits

from lenspipe.errors import CandidateError
from lenspipe.infer.config import FitConfig
from lenspipe.infer.fit import fit
from lenspipe.io.masks import read_masks
from lenspipe.io.shards import Shard
from lenspipe.types import CLASSES, Masks

STARTS = ("network", "truth", "image")
WRONG = 0.1
"""Share of theta_E by which a fit that has not failed is off at most."""
SHORT = {"burn": 0, "min_steps": 10, "max_steps": 10}
WORKFLOW = Path(__file__).parents[1] / "workflows/demo.yaml"


def demo() -> FitConfig:
    """The demo's fit with a sampler that is cut short."""
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    return FitConfig(**workflow["corridors"]["search"]["model"], sampler=SHORT)


def one(job: tuple[Path, int, str]) -> dict[str, Any]:
    """Fit one lens from one kind of start: the line that is written."""
    path, row, start = job
    torch.set_num_threads(1)
    with Shard(path) as shard:
        cutout, labels = shard.cutout(row), shard.labels()
        truth = float(shard.table()["true_theta_E"][row])
    masks = None
    if start == "network":
        _, probability, origin = read_masks(path.parents[1] / "masks" / path.name)
        masks = Masks(probability[row], origin)
    elif start == "truth" and labels is not None:
        masks = Masks(np.eye(len(CLASSES), dtype=np.float32)[labels[row]].transpose(2, 0, 1), "truth")
    line: dict[str, Any] = {"id": cutout.id, "start": start, "true_theta_E": truth}
    begun = time.process_time()
    try:
        with torch.no_grad(), threadpool_limits(1):
            found = fit(cutout, masks, demo(), seed=row)
    except CandidateError as error:
        line |= {"reasons": [str(error.reason)], "theta_E": None}
    else:
        theta_E = dict(zip(found.posterior.names, found.posterior.best))["theta_E"]
        line |= {"reasons": [str(code) for code, _ in found.verdict.reasons], "theta_E": float(theta_E)}
    return line | {"cpu_seconds": time.process_time() - begun}


def has_failed(line: dict[str, Any]) -> bool:
    return line["theta_E"] is None or abs(line["theta_E"] / line["true_theta_E"] - 1) > WRONG


def figures(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The shares of failures, and what the network's masks add to those of the true ones."""
    failed: dict[str, dict[str, bool]] = {start: {} for start in STARTS}
    for line in lines:
        failed[line["start"]][line["id"]] = has_failed(line)
    both = sorted(failed["network"].keys() & failed["truth"].keys())
    change = np.array([int(failed["network"][name]) - int(failed["truth"][name]) for name in both])
    return {
        "n": len(both),
        "failures": {start: float(np.mean(list(found.values()))) for start, found in failed.items() if found},
        "more_failures": float(change.mean()),
        "more_failures_sigma": float(change.std() / np.sqrt(len(change))),
        "spoilt": int((change > 0).sum()),
        "saved": int((change < 0).sum()),
        "cpu_seconds_per_fit": float(np.mean([line["cpu_seconds"] for line in lines])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corridor", type=Path, help="folder with the shards and masks of lenses whose truth is known")
    parser.add_argument("--n", type=int, help="lenses; default: all there are")
    parser.add_argument("--starts", nargs="*", choices=STARTS, default=list(STARTS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--out", type=Path, help="JSON lines, one a fit; default: a temporary file")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    lenses = []
    for path in sorted((options.corridor / "shards").glob("*.h5")):
        with Shard(path) as shard:
            lenses += [(path, int(row), shard.ids[row]) for row in np.flatnonzero(shard.table()["is_lens"])]
    if not lenses:
        parser.error(f"{options.corridor}/shards holds no lens")
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary) / "fits.jsonl"
        lines = [json.loads(text) for text in out.read_text("utf-8").splitlines()] if out.exists() else []
        done = {(line["id"], line["start"]) for line in lines}
        jobs = [
            (path, row, start)
            for path, row, name in lenses[: options.n]
            for start in options.starts
            if (name, start) not in done
        ]
        context = multiprocessing.get_context("spawn")
        with context.Pool(options.jobs) as pool, out.open("a", encoding="utf-8") as file:
            for line in pool.imap_unordered(one, jobs):
                lines.append(line)
                file.write(json.dumps(line) + "\n")
                file.flush()
    result = figures(lines)
    for start, share in result["failures"].items():
        print(f"failed from {start:8} {share:.1%}")
    print(
        f"network's masks against true ones: {result['more_failures']:+.1%} +- {result['more_failures_sigma']:.1%} of "
        f"{result['n']} lenses ({result['spoilt']} spoilt, {result['saved']} saved); "
        f"{result['cpu_seconds_per_fit']:.1f} CPU-s a fit"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
