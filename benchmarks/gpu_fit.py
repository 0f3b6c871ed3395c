"""How many lenses an hour does one device fit when many are one tensor program, and what does an evaluation cost?

Lenses are drawn as in `recovery.py`: three 45x45 DES-like bands. The second workload is one 201x201 image at 0.05
arcsec with a pixel PSF and 2x2 subpixels. Each fit goes from the image to R-hat < 1.01 and at least ten
autocorrelation times, by the code that fits one candidate alone. Where no GPU is seen the CPU runs the same, fewer
lenses, and the figures of a GPU stay blank.

The roofline is that of the device itself, measured here: bytes a second of a copy, FMA a second of a matrix product.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import recovery
import torch
from torch import Tensor

from lenspipe.infer.batch.broker import MEMORY, Broker
from lenspipe.infer.batch.problems import Problems
from lenspipe.infer.config import FitConfig
from lenspipe.infer.fit import Fit, fit
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.prepare import default_window, prepare, seeing
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.types import Cutout

BATCHES = tuple(2**k for k in range(6, 17))
"""Vectors of a call, all candidates together."""
WALKERS = 80
"""Of one candidate in a half step: four ensembles of 40."""
HST = {"side": 201, "scale": 0.05, "fwhm": 0.1}


def des(index: int, seed: int) -> tuple[Cutout, float, FitConfig]:
    """A drawn lens, its Einstein radius, and how it is fitted."""
    lens, noise = (np.random.default_rng(s) for s in np.random.SeedSequence([seed, index]).spawn(2))
    truth = recovery.draw(lens, "as modelled")
    cutout = recovery.observe(truth, noise, "as modelled")
    return cutout, float(truth.vector[recovery.SCENE.index("theta_E")]), recovery.CONFIG


def hst(index: int, seed: int) -> tuple[Cutout, float, FitConfig]:
    """A lens of the same population as a space telescope sees it: one band, a pixel PSF."""
    rng = np.random.default_rng([seed, index, 1])
    vector = recovery.from_priors(rng)
    side, scale = int(HST["side"]), HST["scale"]
    blank = np.ones((1, side, side))
    psf = gaussian_kernel(HST["fwhm"], scale)[None]
    imaging = Imaging(blank, blank > 0, scale, sigma=blank, psf=psf)
    likelihood = Likelihood(imaging, recovery.SCENE, supersampling=4, engine="torch")
    layers = likelihood.response(torch.as_tensor(vector)[None])[0].numpy()
    # Arcs of a total S/N of 60 to 300, a galaxy ten times as bright as its arc.
    source = layers[0] * rng.uniform(60, 300) / np.sqrt((layers[0] ** 2).sum())
    light = layers[1] * 10 * source.sum() / layers[1].sum()
    image = source + light + rng.normal(size=source.shape)
    cutout = Cutout(
        id="drawn",
        bands=("F814W",),
        image=image.astype(np.float32),
        sigma=np.ones_like(image, dtype=np.float32),
        valid=np.ones(image.shape, bool),
        psf=psf.astype(np.float32),
        psf_fwhm=np.full(1, np.nan),
        pixel_scale=scale,
        background_rms=np.full(1, np.nan),
        exposure_time=np.full(1, np.nan),
        zero_point=np.full(1, 25.0),
    )
    own = {"lens_light": ("SERSIC_ELLIPSE",)}
    config = recovery.CONFIG.model_copy(update={"sharp": False, "model": recovery.CONFIG.model.model_copy(update=own)})
    return cutout, float(vector[recovery.SCENE.index("theta_E")]), config


def lenses_an_hour(
    make: Callable[..., Any], count: int, at_once: int, device: str, memory: float | None
) -> dict[str, Any]:
    """Fit `count` lenses; drawing them is not timed."""
    drawn = [make(i, 1) for i in range(count)]
    jobs = [lambda c=c, g=g, i=i: fit(c, None, g, seed=i) for i, (c, _, g) in enumerate(drawn)]
    broker = Broker(device, memory and memory * 1e9)
    begun = time.perf_counter()
    found = broker.run(jobs, min(at_once, count))
    seconds = time.perf_counter() - begun
    fits = [(f, truth) for f, (_, truth, _) in zip(found, drawn) if isinstance(f, Fit)]
    for error in (f for f in found if not isinstance(f, Fit)):
        print(f"  one failed: {error}")
    good = [(f, truth) for f, truth in fits if f.verdict.status == "good"]
    wrong = sum(_wrong(f, truth) for f, truth in good)
    return {
        "good_per_hour": len(good) / seconds * 3600,
        "converged": sum(f.chains.converged for f, _ in fits) / count,
        "good": len(good) / count,
        "silent": wrong / max(len(good), 1),
        "silent_upper95": recovery.upper95(wrong, len(good)) if good else 1.0,
        "seconds": seconds,
        "seconds_by_request": {k: round(v, 2) for k, v in broker.seconds.items()},
        "evaluations_per_lens": float(np.mean([f.evaluations for f, _ in fits])) if fits else None,
    }


def _wrong(found: Fit, truth: float) -> bool:
    column = found.posterior.names.index("theta_E")
    values = found.posterior.samples.reshape(-1, len(found.posterior.names))[:, column]
    off = abs(float(np.median(values)) - truth)
    return off > 3 * float(values.std()) and off > 0.1 * truth


def evaluation_costs(device: str, memory: float | None, batches: Sequence[int]) -> list[dict[str, float]]:
    """Nanoseconds of one float32 evaluation of the first workload, for batches of 64 vectors and more."""
    cutout, _, config = des(0, 1)
    config = config.resolve(seeing(cutout), default_window(cutout, None))
    likelihood = Likelihood(
        prepare(cutout, None, config.data).imaging, recovery.SCENE, torch.float32, supersampling=2, marginalise=True
    )
    priors = recovery.DECLARED
    rng = np.random.default_rng(0)
    rows = []
    for vectors in batches:
        candidates = max(1, vectors // WALKERS)
        problems = Problems(
            [likelihood] * candidates,
            [priors] * candidates,
            torch.device(device),
            memory * 1e9 if memory else MEMORY[device],
        )
        u = priors.centre + 0.1 * rng.normal(size=(candidates, vectors // candidates, len(priors.names)))
        points = torch.as_tensor(np.clip(u, priors.lower, priors.upper), device=device)
        seconds = _timed(lambda p=problems, x=points: p.log_posterior(x), device)
        rows.append({"vectors": vectors, "ns": 1e9 * seconds / (candidates * (vectors // candidates))})
        if device == "cpu" and seconds > 4:
            break
    return rows


def roofline(device: str) -> dict[str, float]:
    """Gigabytes a second copied (read and written), and float32 GFLOP a second of a matrix product."""
    size = 2**28 if device == "cuda" else 2**25
    a = torch.ones(size // 4, device=device)
    b = torch.empty_like(a)
    n = 8192 if device == "cuda" else 1024
    m = torch.ones(n, n, device=device)
    return {
        "copy_gb_s": 2 * size / _timed(lambda: b.copy_(a), device) / 1e9,
        "gflop_s": 2 * n**3 / _timed(lambda: m @ m, device) / 1e9,
    }


def _timed(call: Callable[[], Tensor], device: str, repeats: int = 5) -> float:
    """The median's seconds, the first call apart."""
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


def plot(rows: list[dict[str, float]], path: Path, device: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    axes.loglog([r["vectors"] for r in rows], [r["ns"] for r in rows], "o-")
    axes.set(xlabel="vectors in a call", ylabel="ns an evaluation", title=device)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, help="of the first workload (default: 2048 on a GPU, 16 on a CPU)")
    parser.add_argument("--hst", type=int, help="of the second (default: 128 on a GPU, 0 on a CPU)")
    parser.add_argument("--at-once", type=int, default=512, help="lenses in one program")
    parser.add_argument("--memory", type=float, help="GB for a call's temporaries (default: as `model` has it)")
    parser.add_argument("--plot", type=Path, help="PNG of the cost of an evaluation against the batch")
    parser.add_argument("--quick", action="store_true", help="one lens of the first workload, small batches")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    lenses = 1 if options.quick else options.lenses or (2048 if gpu else 16)
    sharp = 0 if options.quick else options.hst if options.hst is not None else (128 if gpu else 0)
    name = torch.cuda.get_device_name() if gpu else "cpu"
    if not gpu:
        print("no GPU is seen: the CPU runs the same program, and a GPU's figures stay blank")
    with torch.no_grad():
        limits = roofline(device)
        costs = evaluation_costs(device, options.memory, BATCHES[:4] if options.quick else BATCHES)
    print(f"{name}: copies {limits['copy_gb_s']:.0f} GB/s, {limits['gflop_s']:.0f} GFLOP/s")
    for row in costs:
        print(f"{row['vectors']:>8} vectors {row['ns']:>12.0f} ns an evaluation")
    if options.plot:
        plot(costs, options.plot, name)
    first = lenses_an_hour(des, lenses, options.at_once, device, options.memory)
    second = lenses_an_hour(hst, sharp, options.at_once, device, options.memory) if sharp else None
    for title, found in (("DES-like", first), ("HST-like", second)):
        if found:
            print(title, json.dumps(found))
    if options.json:
        result = {
            "device": name,
            "lenses_per_gpu_hour_des": first["good_per_hour"] if gpu else None,
            "lenses_per_gpu_hour_hst": second["good_per_hour"] if gpu and second else None,
            "lenses_per_hour_here": first["good_per_hour"],
            "converged_fraction": first["converged"],
            "silent_failure_rate": first["silent"],
            "silent_upper95": first["silent_upper95"],
            "ns_per_evaluation": {r["vectors"]: r["ns"] for r in costs},
            **limits,
            "quick": options.quick,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
