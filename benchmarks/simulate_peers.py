"""What ``simulate.py`` times beside lenspipe where it is installed: deeplenstronomy and slsim, alternating, CPU time.

Both render by lenstronomy. deeplenstronomy draws its own lenses, as like ours as its configuration allows, so whole
systems with noise are compared. slsim images its lenses, and the same lenses are rendered here, before noise.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lenstronomy.SimulationAPI.sim_api import SimAPI
from numpy.typing import NDArray

from lenspipe.sim import render
from lenspipe.sim.observe import observe
from lenspipe.sim.population import Population, draw
from lenspipe.sim.scene import Light, Scene
from lenspipe.sim.survey import Survey

SUBPIXELS = 2
SEEING = 0.9
SURVEY = Survey(
    bands=tuple(band.model_copy(update={"psf_fwhm": SEEING}) for band in Survey().bands), psf_scatter=0, sky_scatter=0
)
# deeplenstronomy draws lens and source and keeps whatever comes.
POPULATION = Population(galaxies=0, stars=0, min_magnification=0, min_arc_snr=0)


class OldSimAPI(SimAPI):
    """lenstronomy 1.14 calls the first argument otherwise than these peers do."""

    def __init__(self, numpix: int, kwargs_single_band: dict[str, Any], kwargs_model: dict[str, Any]):
        super().__init__(numpix, kwargs_single_band, kwargs_model)


def ratios(ours: list[float], theirs: list[float], name: str, each: str) -> dict[str, float]:
    """Seconds an object by round; the first round warmed up."""
    found = [b / a for a, b in zip(ours[1:], theirs[1:])]
    mine, peer = np.median(ours[1:]), np.median(theirs[1:])
    print(f"{each}: lenspipe {1e3 * mine:.2f} ms, {name} {1e3 * peer:.2f} ms")
    print(f"ratio to {name} {np.median(found):.1f} ({min(found):.1f} to {max(found):.1f})")
    return {f"ratio_vs_{name}": float(np.median(found)), f"{name}_ms": float(1e3 * peer)}


def by_deeplenstronomy(rounds: int, ours: int, theirs: int) -> dict[str, float]:
    """Lenses drawn, rendered in three bands, with noise."""
    from deeplenstronomy import image_generator
    from deeplenstronomy.deeplenstronomy import make_dataset

    image_generator.SimAPI = OldSimAPI
    mine, peer = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        scene = draw(np.random.default_rng(1), POPULATION, SURVEY, True)
        for light in scene.lights:
            # Its configuration has one magnitude for all bands.
            light.magnitude[:] = light.magnitude[0]
        path.write_text(yaml.safe_dump(_configuration(folder, 1, scene)), encoding="utf-8")
        made = make_dataset(str(path), return_planes=True)
        planes = made.CONFIGURATION_1_planes[0]
        layers = render.layers([scene], np.full((1, len(SURVEY.bands)), SEEING), SURVEY, SUBPIXELS)[0]
        model = layers.sum(0)
        # Its planes are lens, source, points, noise.
        error = float(np.abs(planes[0] + planes[1] - model).max() / model.max())
        path.write_text(yaml.safe_dump(_configuration(folder, theirs, None)), encoding="utf-8")
        for turn in range(rounds + 1):
            start = time.process_time()
            observe([turn * ours + i for i in range(ours)], [True] * ours, POPULATION, SURVEY, SUBPIXELS)
            mine.append((time.process_time() - start) / ours)
            start = time.process_time()
            images = make_dataset(str(path)).CONFIGURATION_1_images
            # It may give back one image less than were asked for.
            peer.append((time.process_time() - start) / theirs)
            assert images.shape[1:] == layers.shape[1:] and len(images) > theirs - 2
    print(f"one and the same lens: {error:.1e} of the peak apart")
    each = "a lens drawn, in three bands, with noise"
    return {"deeplenstronomy_image_error": error, **ratios(mine, peer, "deeplenstronomy", each)}


def _configuration(folder: str, size: int, scene: Scene | None) -> dict[str, Any]:
    """Of `scene`, or, without one, of lenses that are drawn."""

    def profile(name: str, light: Light | None, magnitude: tuple[float, float]) -> dict[str, Any]:
        if light is None:
            drawn = {"magnitude": magnitude, "R_sersic": (0.15, 0.45), "n_sersic": (0.8, 2.0)}
            shape = {name: _uniform(*ends) for name, ends in {**drawn, **dict.fromkeys(_PLACE, (-0.2, 0.2))}.items()}
        else:
            shape = {"magnitude": light.magnitude[0], "R_sersic": light.radius, "n_sersic": light.n_sersic}
            shape |= {"e1": light.e1, "e2": light.e2, "center_x": light.x, "center_y": light.y}
            shape = {key: float(value) for key, value in shape.items()}
        return {"NAME": name, "PARAMETERS": shape}

    lens, source = scene.lights[:2] if scene else (None, None)
    drawn = {**dict.fromkeys(_SIE, (-0.2, 0.2)), "theta_E": (0.9, 2.5)}
    sie = {k: float(scene.mass[k]) if scene else _uniform(*ends) for k, ends in drawn.items()}
    shear = {k: float(scene.mass[k]) if scene else _uniform(-0.04, 0.04) for k in ("gamma1", "gamma2")}
    nothing = {"NAME": "SIE", "PARAMETERS": {**dict.fromkeys(_SIE, 0.0)}}
    return {
        "DATASET": {"NAME": "peer", "PARAMETERS": {"SIZE": size, "OUTDIR": folder, "SEED": 1}},
        "COSMOLOGY": {"PARAMETERS": {"H0": 70, "Om0": 0.3}},
        "IMAGE": {
            "PARAMETERS": {
                "numPix": SURVEY.n_pixels,
                "pixel_scale": SURVEY.pixel_scale,
                "exposure_time": SURVEY.exposure_s,
                "read_noise": SURVEY.read_noise,
                "ccd_gain": 4.0,
                "psf_type": "GAUSSIAN",
                "supersampling_factor": SUBPIXELS,
            }
        },
        "SURVEY": {
            "PARAMETERS": {
                "BANDS": ",".join(SURVEY.names),
                "seeing": SEEING,
                "magnitude_zero_point": SURVEY.zero_point,
                "sky_brightness": 21.0,
                "num_exposures": SURVEY.n_exposures,
            }
        },
        "SPECIES": {
            "GALAXY_1": {
                "NAME": "LENS",
                "LIGHT_PROFILE_1": profile("SERSIC_ELLIPSE", lens, (18.5, 20.5)),
                "MASS_PROFILE_1": {"NAME": "SIE", "PARAMETERS": sie},
                "SHEAR_PROFILE_1": {"NAME": "SHEAR", "PARAMETERS": shear},
            },
            # A source that deflects nothing must say so.
            "GALAXY_2": {
                "NAME": "SOURCE",
                "LIGHT_PROFILE_1": profile("SERSIC_ELLIPSE", source, (22.3, 23.9)),
                "MASS_PROFILE_1": nothing,
            },
        },
        "GEOMETRY": {
            "CONFIGURATION_1": {
                "NAME": "GALAXIES",
                "FRACTION": 1.0,
                "PLANE_1": {"OBJECT_1": "LENS", "PARAMETERS": {"REDSHIFT": 0.4}},
                "PLANE_2": {"OBJECT_1": "SOURCE", "PARAMETERS": {"REDSHIFT": 1.5}},
            }
        },
    }


_PLACE = ("e1", "e2", "center_x", "center_y")
_SIE = ("theta_E", *_PLACE)


def _uniform(low: float, high: float) -> dict[str, Any]:
    return {"DISTRIBUTION": {"NAME": "uniform", "PARAMETERS": {"minimum": low, "maximum": high}}}


def by_slsim(rounds: int, ours: int, theirs: int) -> dict[str, float]:
    """Lenses that slsim drew, in three bands."""
    from slsim.ImageSimulation import image_simulation

    from lenspipe.sim.by_slsim.galaxies import draw_galaxies
    from lenspipe.sim.by_slsim.lens import draw_pair

    image_simulation.SimAPI = OldSimAPI
    population = Population.model_validate({"slsim": {"lens_area": 1.0, "source_area": 0.02}})
    assert population.slsim is not None
    galaxies = draw_galaxies(np.random.default_rng(1), population.slsim, SURVEY)
    camera = {"pixel_scale": SURVEY.pixel_scale, "magnitude_zero_point": SURVEY.zero_point}
    psf = {"psf_type": "GAUSSIAN", "seeing": SEEING, "truncation": 4}
    numerics = {"supersampling_factor": SUBPIXELS, "supersampling_convolution": False}

    def image(lens: Any) -> NDArray[np.float64]:
        return np.stack(
            [
                image_simulation.simulate_image(
                    lens,
                    band,
                    SURVEY.n_pixels,
                    add_noise=False,
                    kwargs_psf={**camera, **psf},
                    kwargs_numerics=numerics,
                )
                for band in SURVEY.names
            ]
        )

    mine, peer, worst = [], [], 0.0
    for turn in range(rounds + 1):
        rngs = [np.random.default_rng([turn, i]) for i in range(ours)]
        pairs = [draw_pair(rng, population.slsim, galaxies, population.lens_n_sersic, SURVEY) for rng in rngs]
        scenes = [pair.scene() for pair in pairs]
        start = time.process_time()
        layers = render.layers(scenes, np.full((ours, len(SURVEY.bands)), SEEING), SURVEY, SUBPIXELS)
        mine.append((time.process_time() - start) / ours)
        start = time.process_time()
        images = np.stack([image(pair.lensed) for pair in pairs[:theirs]])
        peer.append((time.process_time() - start) / theirs)
        error = np.abs(layers[:theirs].sum(1) - images).max((1, 2, 3)) / images.max((1, 2, 3))
        worst = max(worst, float(error.max()))
    print(f"the same lenses: {worst:.1e} of the peak apart")
    return {"slsim_image_error": worst, **ratios(mine, peer, "slsim", "a lens of slsim in three bands, before noise")}
