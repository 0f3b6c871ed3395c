"""How time grows: with a second worker, with pixels, with parameter vectors a call.

Fan-out: lenses are simulated, segmented without a network and fitted by ``lenspipe run`` on the site ``local`` with one
worker and with two; the time is that from the first fit's beginning to the last one's end, by the receipts, fits of
equal length. It needs a machine with two free cores and says how loaded this one is. What the machine itself gives is
measured beside it: two bare processes that evaluate the likelihood, against one. Virtual cores that share a real one
or its cache give less than two. The rest is process CPU time of
one float32 evaluation: three bands of 45, 90 and 180 pixels a side at the same pixel scale, 1 to 1024 vectors a call.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import yaml
from likelihood import alternate, mock, posterior
from threadpoolctl import threadpool_limits

from lenspipe.infer.likelihood import Likelihood
from lenspipe.lensing.scene import build

SIDES = (45, 90, 180)
BATCHES = (1, 4, 16, 64, 256, 1024)
SURVEY = {
    "bands": ["g", "r", "i"],
    "zero_point": 30,
    "unit": "flux at zero point 30",
    "orientation": "north-up-east-left",
    "pixel_scale": 0.2637,
}


def makespan(lenses: int, workers: int, steps: int, folder: Path) -> float:
    """Seconds from the first fit's beginning to the last one's end on so many workers."""
    sampler = {"burn": 100, "min_steps": steps, "max_steps": steps}
    stages = {
        "simulate": {"n_lenses": lenses, "n_nonlenses": 0, "supersampling": 2},
        "convert": {"survey": SURVEY},
        "segment": {"survey": "des"},
        "select": {"all": True},
        "model": {"data": {"supersampling": 2}, "sampler": sampler, "figures": False},
    }
    folder.mkdir()
    workflow = folder / "workflow.yaml"
    workflow.write_text(yaml.safe_dump({"name": "scaling", "seed": 1, "corridors": {"search": stages}}))
    out = folder / "run"
    command = [sys.executable, "-m", "lenspipe", "run", str(workflow), "--out", str(out)]
    code = subprocess.run([*command, "--site-set", f"cores={workers}"], check=False, stdout=sys.stderr).returncode
    if code not in (0, 3):
        sys.exit(code)
    receipts = [json.loads(p.read_text()) for p in (out / ".lenspipe" / "receipts").rglob("*.json")]
    fits = [r for r in receipts if r.get("stage") == "model" and r["status"] == "ok"]
    if len(fits) < lenses / 2:
        sys.exit(f"scaling: only {len(fits)} of {lenses} lenses were fitted")
    return float(max(r["began"] + r["seconds"] for r in fits) - min(r["began"] for r in fits))


def evaluate(turns: int, ready: Barrier) -> None:
    """So many calls of the likelihood, once all others are ready."""
    torch.set_num_threads(1)
    scene = build(["SIE"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    data = mock(scene, ground=True)
    likelihood = Likelihood(data, scene, dtype=torch.float32, supersampling=2)
    vectors = posterior(Likelihood(data, scene), 150)
    likelihood.parts(vectors)
    ready.wait()
    for _ in range(turns):
        likelihood.parts(vectors)


def machine(turns: int) -> float:
    """How much faster two bare processes are on this machine than one."""
    context = multiprocessing.get_context("spawn")
    seconds = []
    for number in (1, 2, 1, 2, 1, 2):
        ready = context.Barrier(number + 1)
        processes = [context.Process(target=evaluate, args=(turns, ready)) for _ in range(number)]
        for process in processes:
            process.start()
        ready.wait(timeout=120)
        began = time.perf_counter()
        for process in processes:
            process.join()
        seconds.append(time.perf_counter() - began)
    return float(2 * np.median(seconds[::2]) / np.median(seconds[1::2]))


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Exponent of the power law through the points."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, default=24, help="fits of the fan-out")
    parser.add_argument("--quick", action="store_true", help="8 short fits, fewer rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    scene = build(["SIE"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    base = mock(scene, ground=True)
    vectors = posterior(Likelihood(base, scene), 1024)
    likelihoods = []
    for side in SIDES:
        shape = (len(base.image), side, side)
        data = replace(base, image=np.resize(base.image, shape), mask=np.ones(shape, bool))
        likelihoods.append(Likelihood(data, scene, dtype=torch.float32))
    rounds = 5 if options.quick else 15
    calls = {f"{s}": (lambda f=f: f.parts(vectors[:150]), 150) for s, f in zip(SIDES, likelihoods)}
    pixels = {int(k): float(np.median(t)) for k, t in alternate(calls, rounds).items()}
    calls = {f"{k}": (lambda k=k: likelihoods[0].parts(vectors[:k]), k) for k in BATCHES}
    batches = {int(k): float(np.median(t)) for k, t in alternate(calls, rounds).items()}

    lenses, steps = (8, 50) if options.quick else (options.lenses, 400)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        one, two = (makespan(lenses, n, steps, Path(temporary) / f"workers{n}") for n in (1, 2))
    ceiling = machine(200 if options.quick else 1500)
    result = {
        "efficiency_2": one / two / 2,
        "machine_speedup_2": ceiling,
        "speedup_2": one / two,
        "exponent_pixels": slope(np.square(list(pixels)), np.array(list(pixels.values()))),
        "exponent_batch": slope(np.array(list(batches)), np.array([k * t for k, t in batches.items()])),
        "seconds_1": one,
        "seconds_2": two,
        "us_by_side": pixels,
        "us_by_batch": batches,
        "engine": likelihoods[0].engine,
        "load_before": load,
        "cores": len(os.sched_getaffinity(0)),
        "quick": options.quick,
    }
    print(f"{lenses} fits: {one:.1f} s on one worker, {two:.1f} s on two: {one / two:.2f}x (load before {load:.1f})")
    print(f"two bare processes on this machine: {ceiling:.2f}x")
    if load > 0.3:
        print("other work was running: the fan-out is no measurement")
    print("us an evaluation by side: " + ", ".join(f"{s} {t:.1f}" for s, t in pixels.items()), end="; ")
    print(f"time ~ pixels^{result['exponent_pixels']:.2f}")
    print("us an evaluation by vectors a call: " + ", ".join(f"{k} {t:.1f}" for k, t in batches.items()), end="; ")
    print(f"time ~ vectors^{result['exponent_batch']:.2f}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
