"""Training by two processes beside one: speed, losses, and how long a step waits for its input.

``python benchmarks/ddp.py`` trains the default U-Net by one process on one core and by two with a core each, by turns,
on shards of simulated cutouts; speeds are medians. Then a network with GroupNorm is trained both ways in float32, and
the losses of all steps are compared. The machine must have two idle cores; ``efficiency_2_cpu``, from the processes'
own time, says what they would give where they have not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HERE = Path(__file__).resolve().parent
SIZE, BANDS, SHARD = 45, 3, 256
BATCH = 32


def write(folder: Path, number: int) -> None:
    """Labelled blobs on noise, with the shapes of DES cutouts."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:SIZE, :SIZE]
    for start in range(0, number, SHARD):
        n = min(SHARD, number - start)
        place, width = rng.uniform(8, SIZE - 8, (n, 3, 2)), rng.uniform(2, 5, (n, 3))
        r2 = (y - place[..., 0, None, None]) ** 2 + (x - place[..., 1, None, None]) ** 2
        blobs = 10 * np.exp(-r2 / (2 * width[..., None, None] ** 2))
        label = np.where(blobs.max(1) > 2, blobs.argmax(1), 3).astype(np.uint8)
        image = (blobs[:, [0, 1, 2]] + blobs.sum(1, keepdims=True) + rng.normal(size=blobs.shape)).astype(np.float32)
        with h5py.File(folder / f"{start:06d}.h5", "w") as f:
            for name, data in (("image", image), ("valid", np.ones(image.shape, bool)), ("label", label)):
                f.create_dataset(name, data=data, chunks=(1, *data.shape[1:]))


def part(ranks: Any, folder: Path, epochs: int, exact: bool) -> dict[str, Any]:
    """One rank's training of so many epochs."""
    import torch

    from lenspipe.nets.build import build
    from lenspipe.nets.config import LossConfig, SmpUNetConfig
    from lenspipe.nets.losses import Loss
    from lenspipe.train.data import PARTS, Batches, Objects
    from lenspipe.train.engine import Options, fit
    from lenspipe.train.problem import Segmentation

    torch.set_num_threads(1)
    torch.manual_seed(1)
    shards = sorted(folder.glob("*.h5"))
    sizes = [len(h5py.File(path)["label"]) for path in shards]
    number = sum(sizes)
    kinds = np.full(number, PARTS.index("train"), np.int8)
    kinds[:: number // 32] = PARTS.index("validation")
    rows = np.concatenate([np.arange(size) for size in sizes])
    objects = Objects(shards, np.repeat(np.arange(len(shards)), sizes), rows, kinds)
    net = build(SmpUNetConfig(), BANDS)
    if exact:
        grouped(net)
    with tempfile.TemporaryDirectory() as alone:
        place = Path(os.environ.get("DDP_BENCHMARK", alone)) / f"checkpoints-{ranks.size}-{exact}"
        how = Options(2e-3, 1e-2, epochs, 1e6, 1, "32-true" if exact else "auto", checkpoint_minutes=1e6)
        problem = Segmentation(net, Loss(LossConfig()))
        before = time.process_time()
        result = fit(problem, Batches(objects, BATCH, 1, ranks), place, how, ranks)
    spent = time.process_time() - before
    if ranks.rank:
        return {"cpu": spent}
    # The first epoch warms up.
    seconds = result.history[-1]["seconds"] - result.history[0]["seconds"]
    done = len(result.losses) * BATCH * (epochs - 1) / epochs
    return {"rate": done / seconds, "losses": result.losses, "wait": result.input_wait, "cpu": spent}


def grouped(module: Any) -> None:
    """Replace every batch normalisation by one over groups of channels."""
    import torch

    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(module, name, torch.nn.GroupNorm(max(1, child.num_features // 8), child.num_features))
        else:
            grouped(child)


def worker(folder: Path, epochs: int, exact: bool) -> None:
    import ddp  # by its name, so that the other rank finds its functions

    from lenspipe.ranks import opened

    with opened("torch", "benchmarks/ddp.py") as ranks:
        if ranks.rank:
            ranks.serve()
        else:
            found = ranks.together(ddp.part, folder, epochs, exact, talking=True)
            print(json.dumps({**found[0], "cpu": sum(part["cpu"] for part in found)}), flush=True)


def start(ranks: int, folder: Path, epochs: int, exact: bool) -> dict[str, Any]:
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        environment["DDP_BENCHMARK"] = scratch
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        argv = [*(launcher if ranks > 1 else [sys.executable]), str(HERE / "ddp.py"), "--worker", str(folder)]
        argv += ["--epochs", str(epochs), *(["--exact"] if exact else [])]
        if ranks == 1:
            argv = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *argv]
        done = subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer objects, once")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=3, help=argparse.SUPPRESS)
    parser.add_argument("--exact", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.epochs, options.exact)
        return
    number, rounds = (512, 1) if options.quick else (2048, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, number)
        runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for _ in range(rounds):
            for ranks, found in runs.items():
                found.append(start(ranks, folder, 3, exact=False))
        one, two = (np.array(start(ranks, folder, 2, exact=True)["losses"]) for ranks in (1, 2))
    rate = {ranks: statistics.median(run["rate"] for run in found) for ranks, found in runs.items()}
    cpu = {ranks: statistics.median(run["cpu"] for run in found) for ranks, found in runs.items()}
    figures = {
        "efficiency_2": rate[2] / rate[1],
        "efficiency_2_cpu": 2 * cpu[1] / cpu[2],
        "loss_difference": float(np.abs(one - two).max()),
        "input_wait_fraction": statistics.median(run["wait"] for found in runs.values() for run in found),
        "samples_per_s_1": rate[1],
        "samples_per_s_2": rate[2],
        "steps_compared": len(one),
        "quick": options.quick,
    }
    print(f"{number} cutouts of {BANDS} x {SIZE} x {SIZE}, batches of {BATCH}, one thread a process")
    for label, value in figures.items():
        print(f"{label:22} {value if isinstance(value, bool | int) else f'{value:.4g}'}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
