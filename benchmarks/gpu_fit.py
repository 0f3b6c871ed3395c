"""How many lenses an hour does one device fit when many are one tensor program, and what does an evaluation cost?

Lenses are drawn as in `recovery.py`: three 45x45 DES-like bands. The second workload is one 201x201 image at 0.05
arcsec with a pixel PSF and 2x2 subpixels. Each fit goes from the image to R-hat < 1.01 and at least ten
autocorrelation times, by the code that fits one candidate alone. Where no GPU is seen the CPU runs the same, fewer
lenses, and the figures of a GPU stay blank.

The roofline is that of the device itself, measured here: bytes a second of a copy, FMA a second of a matrix product.

``--mixed N --out FILE`` fits N candidates of mixed size, bands, PSF and S/N one at a time on the CPU and all together,
with the same options and seeds, and holds the two against each other. Fits that stand in FILE are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import recovery
import torch
from torch import Tensor

from lenspipe.infer.batch.broker import Broker
from lenspipe.infer.batch.compiled import Compiled
from lenspipe.infer.batch.memory import BUDGET
from lenspipe.infer.batch.problems import Problems
from lenspipe.infer.config import FitConfig
from lenspipe.infer.fit import Fit, fit
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.prepare import default_window, prepare, seeing
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.types import Cutout

BATCHES = tuple(2**k for k in range(6, 17))
"""Vectors of a call, all candidates together."""
WALKERS = 64
"""Vectors of one candidate in a call: about a half step of four ensembles of 40, and a power of two."""
LONGEST = 3.0
"""Seconds of a call after which a CPU is not asked for longer ones."""
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
    broker = Broker(device, memory and memory * 1e9, compile=device == "cuda")
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


def mixed(index: int, seed: int) -> tuple[Cutout, FitConfig]:
    """A drawn lens as one of many surveys might have it: 45 to 33 pixels wide, some of its bands, a Gaussian PSF or its
    image, photon noise or a map of sigma, at its own noise or three times that."""
    cutout, _, config = des(index, seed)
    rng = np.random.default_rng([seed, index, 2])
    planes = [(0, 1, 2), (0, 1, 2), (1, 2), (1,)][index % 4]
    edge = int(rng.integers(0, 7))
    size = cutout.shape[0]
    window = (list(planes), slice(edge, size - edge), slice(edge, size - edge))
    image, sigma = cutout.image, cutout.sigma
    deep = rng.uniform() < 0.7
    if not deep:
        image = image + np.sqrt(8) * rng.normal(size=image.shape) * sigma
        sigma = 3 * sigma
    imaged, mapped = rng.uniform() < 0.5, not deep or rng.uniform() < 0.3
    kernels = [gaussian_kernel(fwhm, cutout.pixel_scale) for fwhm in cutout.psf_fwhm]
    widest = max(len(k) for k in kernels)
    psf = np.stack([np.pad(k, (widest - len(k)) // 2) for k in kernels])
    own = {
        "id": f"mixed{index}",
        "bands": tuple(cutout.bands[b] for b in planes),
        "image": image[window[0]][:, window[1], window[2]].astype(np.float32),
        "sigma": sigma[window[0]][:, window[1], window[2]].astype(np.float32),
        "valid": cutout.valid[window[0]][:, window[1], window[2]],
        "psf": psf[window[0]].astype(np.float32),
        "psf_fwhm": np.full(len(planes), np.nan) if imaged else cutout.psf_fwhm[window[0]],
    }
    for name in ("background_rms", "exposure_time", "zero_point"):
        values = getattr(cutout, name)[window[0]]
        own[name] = np.full(len(planes), np.nan) if mapped and name != "zero_point" else values
    return replace(cutout, **own), config


def compare(count: int, at_once: int, device: str, memory: float | None, out: Path) -> dict[str, Any]:
    """Both ways of fitting `count` mixed candidates; each line of `out` is a fit."""
    made = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(line["way"], line["index"]): line for line in made}

    def keep(way: str, index: int, found: Any) -> None:
        quality = found.chains.diagnostics
        flat = found.chains.u.reshape(-1, found.chains.u.shape[-1])
        line = {
            "way": way,
            "index": index,
            "status": found.verdict.status,
            "reasons": sorted(str(code) for code, _ in found.verdict.reasons),
            "mean": flat.mean(0).tolist(),
            "sigma": flat.std(0).tolist(),
            "ess": quality.ess.tolist(),
            "evaluations": found.evaluations,
        }
        known[way, index] = line
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def job(index: int) -> tuple[int, Fit]:
        cutout, config = mixed(index, 1)
        with torch.no_grad():
            return index, fit(cutout, None, config, seed=index)

    costs = {}
    for way in ("alone", "together"):
        left = [i for i in range(count) if (way, i) not in known]
        begun = time.process_time()
        if way == "alone":
            for index in left:
                keep(way, *job(index))
        elif left:
            broker = Broker(device, memory and memory * 1e9, compile=device == "cuda")
            jobs = [lambda i=i: job(i) for i in left]
            for error in broker.run(jobs, min(at_once, len(left)), then=lambda found: keep("together", *found)):
                if error is not None:
                    raise error
        costs[way] = (time.process_time() - begun) / max(len(left), 1)
    return {"cpu_seconds_each": costs, **agreement([(known["alone", i], known["together", i]) for i in range(count)])}


def agreement(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """How far the two fits of each candidate are apart.

    Returns
    -------
    ``same_verdicts``, ``same_reasons`` : shares of the candidates.
    ``shift_rms``, ``shift_max`` : differences of the means over their Monte Carlo error, sqrt(sum of sigma^2 / ESS):
        1 for two runs of one sampler.
    ``shift_sigma`` : the largest difference in posterior sigmas.
    ``width_rms``, ``width_max`` : ln of the widths' ratio over its error, sqrt(sum of 1 / (2 ESS)), as Gaussians have
        it.
    ``width_ratio`` : the ratio farthest from 1.
    """
    shifts, sigmas, widths, ratios = [], [], [], []
    for one, other in pairs:
        (m, s, n), (mean, sigma, ess) = ([np.array(f[k]) for k in ("mean", "sigma", "ess")] for f in (one, other))
        shifts.append((mean - m) / np.sqrt(s**2 / n + sigma**2 / ess))
        sigmas.append(np.abs(mean - m) / s)
        ratios.append(sigma / s)
        widths.append(np.log(sigma / s) / np.sqrt(0.5 / n + 0.5 / ess))
    shift, width, ratio = (np.concatenate(a) for a in (shifts, widths, ratios))
    return {
        "n": len(pairs),
        "same_verdicts": float(np.mean([a["status"] == b["status"] for a, b in pairs])),
        "same_reasons": float(np.mean([a["reasons"] == b["reasons"] for a, b in pairs])),
        "shift_rms": float(np.sqrt((shift**2).mean())),
        "shift_max": float(np.abs(shift).max()),
        "shift_sigma": float(np.max(np.concatenate(sigmas))),
        "width_rms": float(np.sqrt((width**2).mean())),
        "width_max": float(np.abs(width).max()),
        "width_ratio": float(ratio[np.argmax(np.abs(np.log(ratio)))]),
    }


def _wrong(found: Fit, truth: float) -> bool:
    column = found.posterior.names.index("theta_E")
    values = found.posterior.samples.reshape(-1, len(found.posterior.names))[:, column]
    off = abs(float(np.median(values)) - truth)
    return off > 3 * float(values.std()) and off > 0.1 * truth


def evaluation_costs(
    device: str, memory: float | None, batches: Sequence[int], compile: bool = False
) -> list[dict[str, float]]:
    """Nanoseconds of one float32 evaluation of the first workload, for batches of 64 vectors and more."""
    likelihood = _sampled()
    priors = recovery.DECLARED
    rng = np.random.default_rng(0)
    calls = Compiled() if compile else None
    rows = []
    for vectors in batches:
        candidates = max(1, vectors // WALKERS)
        problems = Problems(
            [likelihood] * candidates,
            [priors] * candidates,
            torch.device(device),
            memory * 1e9 if memory else BUDGET[device],
            calls,
        )
        u = priors.centre + 0.1 * rng.normal(size=(candidates, vectors // candidates, len(priors.names)))
        points = torch.as_tensor(np.clip(u, priors.lower, priors.upper), device=device)
        seconds = _timed(lambda p=problems, x=points: p.log_posterior(x), device)
        rows.append({"vectors": vectors, "ns": 1e9 * seconds / points[..., 0].numel()})
        if device == "cpu" and 2 * seconds > LONGEST:
            break
    return rows


def kernel_cost() -> float | None:
    """Nanoseconds of the same evaluation by the CPU's compiled kernel, on one core; None where it is not built."""
    likelihood, priors = _sampled(), recovery.DECLARED
    if likelihood.kernel is None:
        return None
    u = priors.centre + 0.1 * np.random.default_rng(0).normal(size=(1024, len(priors.names)))
    points = torch.as_tensor(priors.physical(np.clip(u, priors.lower, priors.upper)))
    return 1e9 * _timed(lambda: likelihood.non_negative(points), "cpu") / len(points)


def _sampled() -> Likelihood:
    """What is sampled of a lens of the first workload."""
    cutout, _, config = des(0, 1)
    data = config.resolve(seeing(cutout), default_window(cutout, None)).data
    imaging = prepare(cutout, None, data).imaging
    return Likelihood(imaging, recovery.SCENE, torch.float32, supersampling=data.supersampling, marginalise=True)


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
    """The median's seconds, the first call apart; on a CPU the process's own, other work beside it or not."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for _ in range(repeats + 1):
        begun = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - begun)
    return float(np.median(seconds[1:]))


def plot(costs: dict[str, list[dict[str, float]]], kernel: float | None, path: Path, device: str) -> None:
    """Each way's cost of an evaluation against the batch; `kernel` is one core's, whatever the batch."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for (way, rows), marker in zip(costs.items(), "os"):
        if rows:
            axes.loglog([r["vectors"] for r in rows], [r["ns"] / 1e3 for r in rows], f"{marker}-", label=way)
    if kernel:
        axes.axhline(kernel / 1e3, color="0.4", ls="--", label="kernel, one CPU core")
    axes.set_xscale("log", base=2)
    axes.set_xlim(BATCHES[0] / 1.4, BATCHES[-1] * 1.4)
    axes.set(xlabel="vectors in a call", ylabel="microseconds an evaluation", title=device)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, help="of the first workload (default: 2048 on a GPU, 16 on a CPU)")
    parser.add_argument("--hst", type=int, help="of the second (default: 128 on a GPU, 0 on a CPU)")
    parser.add_argument("--at-once", type=int, default=512, help="lenses in one program")
    parser.add_argument("--memory", type=float, help="GB for a call's temporaries (default: as `model` has it)")
    parser.add_argument(
        "--mixed", type=int, nargs="?", const=64, help="hold so many (64) mixed fits against fits alone"
    )
    parser.add_argument("--out", type=Path, default=Path("mixed.jsonl"), help="where these are kept")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="(default: on a GPU)")
    parser.add_argument("--plot", type=Path, help="PNG of the cost of an evaluation against the batch")
    parser.add_argument("--quick", action="store_true", help="one lens of the first workload, small batches")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    lenses = 1 if options.quick else options.lenses if options.lenses is not None else (2048 if gpu else 16)
    sharp = 0 if options.quick else options.hst if options.hst is not None else (128 if gpu else 0)
    name = torch.cuda.get_device_name() if gpu else "cpu"
    if not gpu:
        print("no GPU is seen: the CPU runs the same program, and a GPU's figures stay blank")
    if options.mixed:
        print(json.dumps(compare(options.mixed, options.at_once, device, options.memory, options.out)))
        return
    with torch.no_grad():
        limits = roofline(device)
        batches = BATCHES[:4] if options.quick else BATCHES
        costs = {"eager": evaluation_costs(device, options.memory, batches), "compiled": []}
        if options.compile if options.compile is not None else gpu:
            # Compiling takes a CPU longer than what it saves here: every third batch, none longer than those before.
            some = batches if gpu else batches[: len(costs["eager"]) : 3]
            costs["compiled"] = evaluation_costs(device, options.memory, some, True)
        kernel = kernel_cost()
    print(f"{name}: copies {limits['copy_gb_s']:.0f} GB/s, {limits['gflop_s']:.0f} GFLOP/s")
    for way, rows in costs.items():
        for row in rows:
            print(f"{way:>8}: {row['vectors']:>8} vectors {row['ns']:>12.0f} ns an evaluation")
    if kernel:
        print(f"  kernel: {kernel:>29.0f} ns an evaluation")
    if options.plot:
        plot(costs, kernel, options.plot, name)
    first = lenses_an_hour(des, lenses, options.at_once, device, options.memory) if lenses else None
    second = lenses_an_hour(hst, sharp, options.at_once, device, options.memory) if sharp else None
    for title, found in (("DES-like", first), ("HST-like", second)):
        if found:
            print(title, json.dumps(found))
    if options.json:
        result = {
            "device": name,
            "lenses_per_gpu_hour_des": first["good_per_hour"] if gpu and first else None,
            "lenses_per_gpu_hour_hst": second["good_per_hour"] if gpu and second else None,
            "lenses_per_hour_here": first and first["good_per_hour"],
            "converged_fraction": first and first["converged"],
            "silent_failure_rate": first and first["silent"],
            "silent_upper95": first and first["silent_upper95"],
            "ns_per_evaluation": {r["vectors"]: r["ns"] for r in costs["eager"]},
            "ns_per_evaluation_compiled": {r["vectors"]: r["ns"] for r in costs["compiled"]},
            **limits,
            "quick": options.quick,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
