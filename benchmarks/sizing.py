"""What a survey takes, from what a finished run took: files, bytes and core hours, on Perlmutter and on the OSPool.

``python benchmarks/sizing.py RUN`` measures a run folder with modelled candidates and prints the tables of
docs/sizing.md; ``--seconds`` says what a fit takes of one idle core, where the run shared its cores with other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

NUMBERS = (10_000, 1_000_000)
PERLMUTTER = {"cores": 128, "slower": 1.8, "busy": 0.9}
"""Cores of a CPU node, factor of AVX2 to AVX-512 (RESULTS.md, float64), fraction of the time in which they fit."""
OSPOOL = {"slower": 2.5, "busy": 0.8, "job_hours": 1.0}
"""Factor of mixed machines, fraction of a job that is not lost to starts and evictions, work of a job: assumed."""


def measure(run: Path) -> dict[str, float]:
    """Bytes and files of one modelled candidate, each a mean over the run."""
    state = run / ".lenspipe"
    receipts = {path: json.loads(path.read_text(encoding="utf-8")) for path in (state / "receipts").rglob("*.json")}
    fits = [(path, receipt) for path, receipt in receipts.items() if receipt["outputs"] and receipt["stage"] == "model"]
    n = len(fits)
    made: dict[str, list[Path]] = {}
    for receipt in receipts.values():
        for name, output in receipt["outputs"].items():
            made.setdefault(name.split("/")[0], []).append(run / output["path"])
    kinds = [*made["model"], *made["bundle"], *(path for path, _ in fits), *(state / "logs").glob("*/model/*.log")]
    kinds += run.glob("*/report/pictures/*")
    documents = [json.loads((folder / "fit.json").read_text(encoding="utf-8")) for folder in made["model"]]
    return {
        "n": n,
        "shard": size(made["shard"]) / n,
        "masks": size(made["masks"]) / n,
        "bundle": size(made["bundle"]) / n,
        "model": size(made["model"]) / n,
        "posterior": size([folder / "posterior.h5" for folder in made["model"]]) / n,
        "figures": size([path for folder in made["model"] for path in folder.glob("*.png")]) / n,
        "receipt": size([path for path, _ in fits]) / n,
        "ledger": (state / "ledger.jsonl").stat().st_size / n,
        "bytes": size([run]) / n,
        "files": len(files(kinds)) / n,
        "seconds": statistics.mean(document["seconds"] for document in documents),
    }


def files(paths: list[Path]) -> list[Path]:
    """These files, and all that are in these folders."""
    found = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return [file for file in found if file.is_file()]


def size(paths: list[Path]) -> int:
    """Their bytes."""
    return sum(file.stat().st_size for file in files(paths))


def sums(one: dict[str, float], n: int) -> dict[str, Any]:
    """What `n` candidates take."""
    hours = n * one["seconds"] / 3600
    ospool_hours = hours * OSPOOL["slower"] / OSPOOL["busy"]
    return {
        "core_hours": hours,
        "perlmutter_node_hours": hours * PERLMUTTER["slower"] / PERLMUTTER["busy"] / PERLMUTTER["cores"],
        "files": n * one["files"],
        "bytes": n * one["bytes"],
        "ospool_core_hours": ospool_hours,
        "ospool_jobs": ospool_hours * OSPOOL["busy"] / OSPOOL["job_hours"],
        "ospool_bytes_in": n * one["bundle"],
        "ospool_bytes_out": n * (one["model"] + one["receipt"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--seconds", type=float, help="core seconds of a fit; default: as its fits say, wall time")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    one = measure(options.run)
    one["seconds"] = options.seconds or one["seconds"]
    print(f"one candidate, mean of {one['n']:.0f}: {one['seconds']:.0f} s of a core, {one['files']:.1f} files")
    for name in ("shard", "masks", "bundle", "model", "posterior", "figures", "receipt", "ledger", "bytes"):
        print(f"  {name:10} {one[name] / 1e3:10.1f} kB")
    table = {str(n): sums(one, n) for n in NUMBERS}
    print(f"{'':24}" + "".join(f"{n:>14}" for n in NUMBERS))
    for name in table[str(NUMBERS[0])]:
        print(f"{name:24}" + "".join(f"{column[name]:14.4g}" for column in table.values()))
    if options.json:
        print(json.dumps({"one": one, "sums": table}))


if __name__ == "__main__":
    main()
