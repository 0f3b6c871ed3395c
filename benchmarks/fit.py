"""A whole fit, end to end: lenstronomy's particle swarm and stretch moves, the same recipe here, and our own fit.

The workload is that of ``likelihood.py``: three 45x45 ground-based bands, 15 non-linear parameters, flat priors, two
amplitudes a band, maximised as lenstronomy does. The reference recipe is a swarm of 500 particles and 500 iterations,
then 150 walkers for 400 + 1000 stretch moves. lenstronomy runs all of it once with ``--whole``. Otherwise its time is
extrapolated from what a few more iterations and a few more steps cost in this run, and that is too short: early on much
of the swarm is out of bounds, where lenstronomy computes nothing. Times are process CPU seconds of one thread, medians
over rounds in which each contestant runs once; ratios are medians of the rounds' ratios. Ours run in a fresh process
each, as a worker does.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import platform
import resource
import time
from typing import Any

import lenstronomy
import numpy as np
import torch
from likelihood import TRUTH, mock
from threadpoolctl import threadpool_limits

from lenspipe.infer.config import FitConfig
from lenspipe.infer.fit import fit
from lenspipe.infer.likelihood import Imaging
from lenspipe.lensing.params import LIGHT, MASS
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import Component, build
from lenspipe.types import Cutout

PARTICLES, ITERATIONS, WALKERS, STEPS = 500, 500, 150, 1400
SCENE = build(["SIE"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
PRIORS = {name: {"lower": low, "upper": high} for name, (_, low, high) in TRUTH.items()}
# The mock was rendered, and is fitted by lenstronomy, a value a pixel.
DATA: dict[str, Any] = {"marginalise": False, "subpixel_error": None}
OURS: dict[str, Any] = {"model": {"lens": ["SIE"]}, "priors": PRIORS, "data": DATA}
RECIPE = {**OURS, "preset": "reference"}
LONG = {"ensembles": 4, "walkers": 100, "burn": 500, "min_steps": 3000, "max_steps": 3000}
"""The run that ours is held against, in float64."""


def cutout(data: Imaging) -> Cutout:
    """The mock as the pipeline gets it."""
    assert data.psf_fwhm is not None and data.background_rms is not None and data.exposure_time is not None
    variance = data.background_rms[:, None, None] ** 2
    variance = variance + np.clip(data.image, 0, None) / data.exposure_time[:, None, None]
    kernel = gaussian_kernel(float(data.psf_fwhm.max()), data.pixel_scale)
    return Cutout(
        id="mock",
        bands=("g", "r", "i"),
        image=data.image.astype(np.float32),
        sigma=np.sqrt(variance).astype(np.float32),
        valid=data.mask,
        psf=np.stack([kernel] * len(data.image)).astype(np.float32),
        psf_fwhm=data.psf_fwhm,
        pixel_scale=data.pixel_scale,
        background_rms=data.background_rms,
        exposure_time=data.exposure_time,
        zero_point=np.full(len(data.image), 30.0),
    )


def ours(options: dict[str, Any], seed: int) -> dict[str, Any]:
    """One fit in this process: CPU seconds without imports, posterior, diagnostics, peak memory with imports."""
    torch.set_num_threads(1)
    data = mock(SCENE, ground=True)
    config = FitConfig.model_validate(options)
    # What a worker's first fit loads is no part of a candidate's time.
    for module in ("lenstronomy.Sampling.Likelihoods.image_likelihood", "arviz_stats.base"):
        importlib.import_module(module)
    with torch.no_grad(), threadpool_limits(1):
        begun = time.process_time()
        found = fit(cutout(data), None, config, seed)
        seconds = time.process_time() - begun
    draws = found.chains.u.reshape(-1, found.chains.u.shape[-1])
    quality = found.chains.diagnostics
    return {
        "seconds": seconds,
        "mean": draws.mean(0),
        "width": draws.std(0),
        "rhat": float(quality.rhat.max()),
        "ess": float(quality.ess.min()),
        "tau": float(quality.tau.max()),
        "converged": found.chains.converged,
        "evaluations": found.evaluations,
        "sampled": found.chains.evaluations,
        "best": found.log_likelihood,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_worker(options: dict[str, Any], seed: int) -> dict[str, Any]:
    """`ours` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(ours, (options, seed))


class Sequence:
    """lenstronomy's FittingSequence on the same data, bounds and shared centre."""

    def __init__(self, data: Imaging):
        assert data.psf_fwhm is not None and data.background_rms is not None and data.exposure_time is not None
        height, width = data.shape
        scale = data.pixel_scale
        bands = []
        for image, rms, exposure, fwhm in zip(data.image, data.background_rms, data.exposure_time, data.psf_fwhm):
            pixels = {
                "image_data": image,
                "background_rms": float(rms),
                "exposure_time": float(exposure),
                "ra_at_xy_0": -(width - 1) / 2 * scale,
                "dec_at_xy_0": -(height - 1) / 2 * scale,
                "transform_pix2angle": np.eye(2) * scale,
            }
            psf = {"psf_type": "GAUSSIAN", "fwhm": float(fwhm), "pixel_size": scale, "truncation": 4}
            bands.append([pixels, psf, {"supersampling_factor": 1, "supersampling_convolution": False}])
        self.data = {"multi_band_list": bands, "multi_band_type": "multi-linear"}
        self.likelihood = {
            "check_bounds": True,
            "check_positive_flux": True,
            "image_likelihood_mask_list": [m.astype(float) for m in data.mask],
        }
        roles = (("lens_model", SCENE.lens), ("source_model", SCENE.source), ("lens_light_model", SCENE.lens_light))
        self.model = {f"{role}_list": [c.profile for c in parts] for role, parts in roles}
        self.model["source_light_model_list"] = self.model.pop("source_model_list")
        self.parameters = {role: [self._lists(parts, i) for i in range(5)] for role, parts in roles}

    def _lists(self, parts: tuple[Component, ...], which: int) -> list[dict[str, float]]:
        """Start, width, what is fixed, lower and upper bounds."""
        result = []
        for part in parts:
            table = (MASS | LIGHT)[part.profile]
            values = {}
            for name, column in zip(table, part.columns):
                _, low, high = TRUTH[SCENE.names[column]]
                values[name] = ((low + high) / 2, (high - low) / 2, 0.0, low, high)[which]
            result.append({} if which == 2 else values)
        return result

    def run(self, swarm: int, steps: int) -> tuple[float, int]:
        """CPU seconds and evaluations of a swarm of so many iterations, and then so many steps of the walkers."""
        from lenstronomy.Workflow.fitting_sequence import FittingSequence

        shared = {"joint_lens_with_light": [[0, 0, ["center_x", "center_y"]]]}
        sequence = FittingSequence(self.data, self.model, shared, self.likelihood, self.parameters, verbose=False)
        particles = {"sigma_scale": 1.0, "n_particles": PARTICLES, "n_iterations": swarm, "threadCount": 1}
        walkers = {"n_burn": 0, "n_run": steps, "n_walkers": WALKERS, "sigma_scale": 0.1, "progress": False}
        parts = [["PSO", particles]] * bool(swarm) + [["emcee", walkers]] * bool(steps)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            begun = time.process_time()
            chains = sequence.fit_sequence(parts)
            seconds = time.process_time() - begun
        # A swarm may have gathered early.
        iterations = len(chains[0][1][0]) + 1 if swarm else 0
        return seconds, PARTICLES * iterations + WALKERS * (steps + bool(steps))

    def iteration(self) -> float:
        """CPU seconds of one more iteration of the swarm."""
        return (self.run(10, 0)[0] - self.run(3, 0)[0]) / 7

    def step(self) -> float:
        """CPU seconds of one more step of the walkers."""
        return (self.run(0, 14)[0] - self.run(0, 4)[0]) / 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="lenstronomy's fit once from start to end, ten minutes")
    parser.add_argument("--quick", action="store_true", help="one round, a shorter run to be held against")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    torch.set_num_threads(1)
    threadpool_limits(1)
    print(
        f"lenstronomy {lenstronomy.__version__}, torch {torch.__version__}, numpy {np.__version__}, Python "
        f"{platform.python_version()}; one thread, load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"
    )
    theirs = Sequence(mock(SCENE, ground=True))
    theirs.run(1, 0)
    times: dict[str, list[float]] = {"PSO iteration": [], "stretch step": [], "same recipe": [], "our fit": []}
    fits, recipes = [], []
    for number in range(rounds):
        times["PSO iteration"].append(theirs.iteration())
        recipes.append(in_worker(RECIPE, number))
        times["same recipe"].append(recipes[-1]["seconds"])
        times["stretch step"].append(theirs.step())
        fits.append(in_worker(OURS, number))
        times["our fit"].append(fits[-1]["seconds"])
    long = LONG | ({"walkers": 60, "min_steps": 1500, "max_steps": 1500} if options.quick else {})
    reference = in_worker({**OURS, "data": {**DATA, "precision": "float64"}, "sampler": long}, 99)

    pso, stretch = np.array(times["PSO iteration"]), np.array(times["stretch step"])
    extrapolated = pso * (ITERATIONS + 1) + stretch * STEPS
    # A swarm may gather and stop early: then lenstronomy is charged for as many evaluations, not more.
    iterations = np.array([(r["evaluations"] - r["sampled"]) / PARTICLES for r in recipes])
    steps = np.array([r["sampled"] / WALKERS for r in recipes])
    same = (pso * iterations + stretch * steps) / np.array(times["same recipe"])
    total, kind = float(np.median(extrapolated)), "extrapolated"
    if options.whole:
        total, evaluations = theirs.run(ITERATIONS, STEPS)
        kind = f"{evaluations} evaluations"
        charged = np.array([r["evaluations"] for r in recipes]) / evaluations
        extrapolated, same = np.full(rounds, total), total * charged / np.array(times["same recipe"])
    converged = extrapolated / np.array(times["our fit"])
    shift = max(float((np.abs(f["mean"] - reference["mean"]) / reference["width"]).max()) for f in fits)
    widths = np.array([f["width"] / reference["width"] for f in fits])
    result = {
        "ratio_same_algorithm": float(np.median(same)),
        "ratio_to_converged": float(np.median(converged)),
        "rhat_max": max(f["rhat"] for f in fits),
        "ess_min": min(f["ess"] for f in fits),
        "seconds_per_candidate": float(np.median(times["our fit"])),
        "max_mean_shift_sigma": shift,
        "width_ratio_min": float(widths.min()),
        "width_ratio_max": float(widths.max()),
        "peak_rss_mb": max(f["rss_mb"] for f in fits),
        "lenstronomy_seconds" if options.whole else "lenstronomy_seconds_extrapolated": total,
        "lenstronomy_ms_per_evaluation": float(np.median(pso)) / PARTICLES * 1e3,
        "same_recipe_seconds": float(np.median(times["same recipe"])),
        "same_recipe_evaluations": int(np.median([r["evaluations"] for r in recipes])),
        "same_recipe_rhat": max(r["rhat"] for r in recipes),
        "same_recipe_ess": min(r["ess"] for r in recipes),
        "evaluations": int(np.median([f["evaluations"] for f in fits])),
        "reference_rhat": reference["rhat"],
        "reference_ess": reference["ess"],
        "all_converged": all(f["converged"] for f in fits),
        "rounds": rounds,
        "quick": options.quick,
    }
    print(f"\n{'':44}{'CPU s':>9}{'ratio':>8}{'min':>8}{'max':>8}{'R-hat':>8}{'ESS':>8}")
    print(f"{f'lenstronomy, {kind}':44}{total:9.1f}{1:8.1f}")
    for name, ratio, runs in (("same recipe", same, recipes), ("our fit", converged, fits)):
        worst = (max(r["rhat"] for r in runs), min(r["ess"] for r in runs))
        label = f"{name}, {int(np.median([r['evaluations'] for r in runs]))} evaluations"
        spread = f"{np.median(ratio):8.1f}{ratio.min():8.1f}{ratio.max():8.1f}{worst[0]:8.4f}{worst[1]:8.0f}"
        print(f"{label:44}{np.median(times[name]):9.2f}{spread}")
    print(
        f"against a long run (R-hat {reference['rhat']:.4f}, ESS {reference['ess']:.0f}): means within {shift:.3f} "
        f"sigma, widths {widths.min():.3f} to {widths.max():.3f}; peak memory {result['peak_rss_mb']:.0f} MiB"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
