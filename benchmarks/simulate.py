"""Simulated systems a second: rendered in layers and labelled, beside lenstronomy's SimAPI on the very same objects.

Three 45x45 DES-like bands, lens, source and neighbours in layers, 2x2 subpixels, Gaussian PSFs; every light and
deflector is the same for both, and so is the rule of the labels. Alternating rounds on one core, process CPU time,
medians. Then the stage ``simulate`` as a process of its own, HDF5 and FITS: its CPU time and memory at two sizes, and
what 100,000 systems would take by that, extrapolated. Last the noise of many images: mean and variance of
residual / sigma by band; with ``--backgrounds`` also where they lie on real skies, by robust scale, in pixels free of
sources. deeplenstronomy and slsim run beside it where they are installed (`simulate_peers.py`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import lenstronomy
import numpy as np
from lenstronomy.SimulationAPI.sim_api import SimAPI
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from simulate_peers import by_deeplenstronomy, by_slsim
from threadpoolctl import threadpool_limits

from lenspipe.label.masks import label
from lenspipe.lensing.kernel import render as kernel
from lenspipe.sim import render
from lenspipe.sim.observe import observe
from lenspipe.sim.population import Population, draw
from lenspipe.sim.scene import LAYERS, Light, Scene
from lenspipe.sim.survey import Survey
from lenspipe.stages import simulate

SUBPIXELS = 2
# Stars are the PSF itself, which the SimAPI takes another way: the same objects for both are those without.
POPULATION = Population(stars=0.0)
SURVEY = Survey(psf_scatter=0.0, sky_scatter=0.0)
THRESHOLD = 2.0
FREE, MARGIN = 0.1, 3
"""Sigmas of the sky below which noiseless flux counts as none; pixels kept off those above it."""
FWHM = SURVEY.per_band("psf_fwhm")
MEASURE = """
import resource, sys, time
from pathlib import Path
from lenspipe.stages import simulate
import h5py, scipy.stats, torch
from lenspipe.sim import observe, render
n, folder = int(sys.argv[1]), Path(sys.argv[2])
config = simulate.SimulateConfig(n_lenses=n - n // 2, n_nonlenses=n // 2, supersampling=2)
start = time.process_time()
simulate.run(config, {}, {"simulations": folder / "s.fits", "layers": folder / "l.h5"}, 1)
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
"""CPU seconds and peak MiB of simulating n objects, imports left out of the time."""


def sersic(item: Light, band: int) -> dict[str, float]:
    shape = {"R_sersic": item.radius, "n_sersic": item.n_sersic, "e1": item.e1, "e2": item.e2}
    return {"magnitude": float(item.magnitude[band]), **shape, "center_x": item.x, "center_y": item.y}


def by_lenstronomy(scene: Scene) -> NDArray[np.float64]:
    """(L, B, H, W) of one scene, as the SimAPI is meant to be used: one instance a band."""
    mass = scene.mass
    lens = [
        {name: mass[name] for name in ("theta_E", "e1", "e2", "center_x", "center_y")},
        {name: mass[name] for name in ("gamma1", "gamma2")},
    ]
    lights = [item for item in scene.lights if item.plane == 0]
    sources = [item for item in scene.lights if item.plane == 1]
    result = np.zeros((len(LAYERS), len(SURVEY.bands), SURVEY.n_pixels, SURVEY.n_pixels))
    for b, band in enumerate(SURVEY.bands):
        camera = {
            "read_noise": SURVEY.read_noise,
            "pixel_scale": SURVEY.pixel_scale,
            "ccd_gain": 4.0,
            "exposure_time": SURVEY.exposure_s,
            "num_exposures": SURVEY.n_exposures,
            "sky_brightness": band.sky_brightness,
            "magnitude_zero_point": SURVEY.zero_point,
            "seeing": band.psf_fwhm,
            "psf_type": "GAUSSIAN",
            "truncation": 4,
        }
        models = {
            "lens_model_list": ["SIE", "SHEAR"],
            "source_light_model_list": ["SERSIC_ELLIPSE"] * len(sources),
            "lens_light_model_list": ["SERSIC_ELLIPSE"] * len(lights),
        }
        api = SimAPI(SURVEY.n_pixels, camera, models)
        light, source, _ = api.magnitude2amplitude(
            [sersic(item, b) for item in lights], [sersic(item, b) for item in sources]
        )
        model = api.image_model_class({"supersampling_factor": SUBPIXELS, "supersampling_convolution": False})
        result[0, b] = model.source_surface_brightness(source, lens)
        for index, name in enumerate(LAYERS[1:], 1):
            chosen = tuple(k for k, item in enumerate(lights) if item.layer == name)
            if chosen:
                result[index, b] = model.lens_surface_brightness(light, k=chosen)
    return result


def labelled(layers: NDArray[Any]) -> NDArray[np.uint8]:
    return label(layers[:, 0], layers[:, 1], layers[:, 2], np.tile(SURVEY.sky_rms(), (len(layers), 1)), THRESHOLD)


def race(rounds: int, ours: int, theirs: int) -> dict[str, float]:
    """Our batch of `ours` scenes against `theirs` of them by lenstronomy, a round."""
    ratios, seconds, worst = [], [], 0.0
    for turn in range(rounds + 1):
        scenes = [draw(np.random.default_rng([turn, i]), POPULATION, SURVEY, True) for i in range(ours)]
        fwhm = np.tile(FWHM, (ours, 1))
        start = time.process_time()
        layers = render.layers(scenes, fwhm, SURVEY, SUBPIXELS)
        labels = labelled(layers)
        mine = (time.process_time() - start) / ours
        start = time.process_time()
        peers = np.stack([by_lenstronomy(scene) for scene in scenes[:theirs]])
        peer_labels = labelled(peers.astype(np.float32))
        theirs_each = (time.process_time() - start) / theirs
        error = np.abs(layers[:theirs] - peers).max((3, 4)) / peers.sum(1).max((2, 3))[:, None]
        worst = max(worst, float(error.max()))
        assert np.mean(labels[:theirs] != peer_labels) < 1e-4
        if turn:  # the first warms up
            ratios.append(theirs_each / mine)
            seconds.append((mine, theirs_each))
    mine, theirs_each = np.median(seconds, axis=0)
    print(f"lenspipe {1e6 * mine:.0f} us, lenstronomy {1e3 * theirs_each:.2f} ms a system of {len(SURVEY.bands)} bands")
    print(
        f"ratio {np.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), largest error {worst:.1e} of the peak"
    )
    return {
        "ratio_vs_lenstronomy": float(np.median(ratios)),
        "ratio_min": float(min(ratios)),
        "ratio_max": float(max(ratios)),
        "max_image_error": worst,
        "systems_per_s_core": float(1 / mine),
    }


def stage(sizes: tuple[int, int]) -> dict[str, float]:
    """CPU time and memory of the stage at two sizes: the difference is what an object costs."""
    measured = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", MEASURE, str(n), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        measured.append([float(word) for word in done.stdout.split()])
        print(
            f"stage simulate, {n} objects, HDF5 and FITS: {measured[-1][0]:.1f} CPU s, peak {measured[-1][1]:.0f} MiB"
        )
    each = (measured[1][0] - measured[0][0]) / (sizes[1] - sizes[0])
    print(f"100,000 objects at {1e3 * each:.2f} ms each, extrapolated: {1e5 * each / 60:.1f} CPU minutes")
    return {
        "rss_mb": measured[1][1],
        "rss_growth_mb": measured[1][1] - measured[0][1],
        "stage_objects": sizes[1],
        "stage_ms_each": 1e3 * each,
        "minutes_100000_extrapolated": 1e5 * each / 60,
    }


def noise(images: int) -> dict[str, dict[str, float]]:
    """Mean and variance of residual / sigma by band."""
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for start in range(0, images, 250):
        seeds = list(range(start, min(start + 250, images)))
        made = observe(seeds, [i % 2 == 0 for i in seeds], Population(), Survey(), 1)
        model = made.layers.sum(1, dtype=np.float64)
        variance = made.sky_rms[:, :, None, None] ** 2 + model / SURVEY.effective_gain()[:, None, None]
        pull = (made.image - model) / np.sqrt(variance)
        total, squares = total + pull.sum((0, 2, 3)), squares + (pull**2).sum((0, 2, 3))
        count += pull[:, 0].size
    mean = total / count
    variance = squares / count - mean**2
    result = {
        name: dict(zip(SURVEY.names, values.tolist())) for name, values in (("mean", mean), ("variance", variance))
    }
    print(f"residual / sigma of {images} images:", json.dumps(result))
    return {f"noise_{name}": values for name, values in result.items()}


def on_skies(folder: Path, objects: int) -> dict[str, Any]:
    """Robust variance of residual / sigma by band, on real skies (one stack BAND.fits.gz or BAND.fits a band)."""
    skies = {band: str(next(folder.glob(f"{band}.fits*"))) for band in "griz" if [*folder.glob(f"{band}.fits*")]}
    wanted = {"survey": {"preset": "des_wide", "bands": list(skies)}, "backgrounds": skies}
    config = simulate.SimulateConfig.model_validate(
        {**wanted, "n_lenses": objects // 2, "n_nonlenses": objects - objects // 2}
    )
    variance, pixels = {}, 0
    with tempfile.TemporaryDirectory() as place:
        layers = Path(place) / "l.h5"
        simulate.run(config, {}, {"simulations": Path(place) / "s.fits", "layers": layers}, 1)
        with h5py.File(layers) as made:
            for b, band in enumerate(skies):
                model = sum(made[name][:, b] for name in LAYERS)
                sky, gain = (made[name][:, b][:, None, None] for name in ("sky_rms", "exposure_time"))
                sigma = np.sqrt(sky**2 + model / gain)
                free = ~binary_dilation(model > FREE * sky, np.ones((1, 2 * MARGIN + 1, 2 * MARGIN + 1)))
                pull = ((made["image"][:, b] - model) / sigma)[free]
                pull = pull[np.isfinite(pull)]
                variance[band] = float((1.4826 * np.median(np.abs(pull - np.median(pull)))) ** 2)
                pixels += pull.size
    print(f"{objects} objects on real skies, {pixels} pixels free of sources, robust variance:", json.dumps(variance))
    return {"skies_variance": variance}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and objects")
    parser.add_argument("--noise", action="store_true", help="measure the noise alone")
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", help="real skies, a stack BAND.fits.gz a band")
    options = parser.parse_args()
    threadpool_limits(1)
    engine = "kernel" if kernel.available() else "torch"
    print(
        f"lenstronomy {lenstronomy.__version__}, numpy {np.__version__}, Python {platform.python_version()}; "
        f"engine {engine}; one thread"
    )
    result: dict[str, Any] = {}
    if not options.noise:
        result |= race(5 if options.quick else 15, 256, 12 if options.quick else 32)
        result |= stage((250, 1000) if options.quick else (1000, 5000))
        # After the stage: a process starts with the peak memory of the one that starts it.
        for name, beside in {"deeplenstronomy": by_deeplenstronomy, "slsim": by_slsim}.items():
            if importlib.util.find_spec(name):
                result |= beside(3 if options.quick else 9, 128, 8 if options.quick else 32)
            else:
                print(f"{name} is not installed and not measured")
    result |= noise(1000 if options.quick else 10_000)
    if options.backgrounds:
        result |= on_skies(options.backgrounds, 500 if options.quick else 2000)
    result |= {"engine": engine, "quick": options.quick}
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
