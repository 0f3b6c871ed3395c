"""Conversion beside a plain loop that copies the same pixels with astropy and h5py and checks nothing.

``python benchmarks/convert.py`` writes candidates as folders (image, noise and PSF, three bands), converts them by the
plain loop, by one rank and by two under mpirun, in turn, and takes medians. Imports are not counted. The loop has one
core, so that of two ranks it is wall time against wall time; per core it is process time against the sum of both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import fits

SHAPE = (3, 64, 64)
ROUNDS = 5


def write(source: Path, number: int) -> None:
    """Candidates of noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:11, :11] - 5
    psf = np.exp(-(x * x + y * y) / 8)
    for i in range(number):
        folder = source / f"C{i:06d}"
        folder.mkdir(parents=True)
        parts = {"image": rng.normal(size=SHAPE), "noise": np.ones(SHAPE), "psf": psf / psf.sum()}
        for name, values in parts.items():
            fits.PrimaryHDU(values.astype(np.float32)).writeto(folder / f"{name}.fits")


def plain(source: Path, out: Path) -> None:
    """Copy all pixels to one HDF5 file, chunked by candidate."""
    folders = sorted(source.iterdir())
    out.mkdir(parents=True)
    with h5py.File(out / "all.h5", "w") as f:
        for name, shape in (("image", SHAPE), ("noise", SHAPE), ("psf", (11, 11))):
            f.create_dataset(name, (len(folders), *shape), "f4", chunks=(1, *shape))
        for row, folder in enumerate(folders):
            for name in ("image", "noise", "psf"):
                f[name][row] = fits.getdata(folder / f"{name}.fits")


def ours(source: Path, out: Path) -> None:
    """The stage, as ``lenspipe convert`` runs it."""
    from lenspipe.run.execute import execute
    from lenspipe.stage import Task
    from lenspipe.stages import convert

    out.mkdir(parents=True)
    options = {"source": str(source), "survey": {"bands": ["g", "r", "i"], "pixel_scale": 0.26}, "shard_size": 64}
    outputs = {product.name: product.path for product in convert.STAGE.outputs}
    result = execute(Task("convert", "", ("",), options, {}, outputs, 0), convert.STAGE, out)
    assert not result.get("mistake") and result["receipts"][0]["status"] == "ok", result


def worker(kind: str, source: Path, out: Path) -> None:
    """Time one conversion; on each rank, the process time too."""
    from lenspipe.ranks import opened
    from lenspipe.stages import convert, deal  # noqa: F401  (imports are not counted)

    work: Callable[[Path, Path], None] = plain if kind == "plain" else ours
    with opened("mpi", "benchmarks/convert.py") as ranks:
        if ranks.rank:
            ranks.serve()
        else:
            ranks.together(cpu)
            began, before = time.perf_counter(), ranks.together(cpu)
            work(source, out)
            spent = sum(ranks.together(cpu)) - sum(before)
            print(json.dumps({"wall": time.perf_counter() - began, "cpu": spent}))


def cpu(ranks: Any) -> float:
    return time.process_time()


def start(kind: str, ranks: int, source: Path, out: Path) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    code = (
        f"import convert, pathlib; convert.worker({kind!r}, pathlib.Path({str(source)!r}), pathlib.Path({str(out)!r}))"
    )
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launcher = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks)] if ranks > 1 else []
    argv = [*launcher, sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def hashes(out: Path) -> dict[str, str]:
    paths = [*out.glob("shards/*.h5"), out / "index.parquet"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=3000, help="candidates")
    parser.add_argument("--quick", action="store_true", help="500 candidates, once")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    number, rounds = (500, 1) if options.quick else (options.number, ROUNDS)
    runs: dict[tuple[str, int], list[dict[str, float]]] = {("plain", 1): [], ("ours", 1): [], ("ours", 2): []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        write(source, number)
        for _ in range(rounds):
            for (kind, ranks), found in runs.items():
                found.append(start(kind, ranks, source, Path(folder) / f"{kind}{ranks}"))
        start("ours", 3, source, Path(folder) / "ours3")
        made = [hashes(Path(folder) / f"ours{ranks}") for ranks in (1, 2, 3)]
    time_of = {
        (kind, ranks, clock): statistics.median(run[clock] for run in found)
        for (kind, ranks), found in runs.items()
        for clock in ("wall", "cpu")
    }
    print(f"{number} candidates of {SHAPE}, image, noise and PSF; ms a candidate")
    print(f"{'':22}{'wall':>8}{'cpu':>8}")
    for kind, ranks in runs:
        wall, spent = (1e3 * time_of[kind, ranks, clock] / number for clock in ("wall", "cpu"))
        print(f"{kind}, ranks: {ranks:<10}{wall:8.2f}{spent:8.2f}")
    figures = {
        "ratio_vs_plain": time_of["plain", 1, "cpu"] / time_of["ours", 1, "cpu"],
        "ratio_two_ranks": time_of["plain", 1, "wall"] / time_of["ours", 2, "wall"],
        "ratio_two_ranks_cpu": 2 * time_of["plain", 1, "cpu"] / time_of["ours", 2, "cpu"],
        "identical_over_ranks": made[0] == made[1] == made[2] and len(made[0]) > 1,
        "quick": options.quick,
    }
    for name, value in figures.items():
        print(f"{name:22} {value if isinstance(value, bool) else round(value, 2)}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
