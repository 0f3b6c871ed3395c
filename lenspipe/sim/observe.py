"""Whole simulated objects: draw, render, keep or draw again, add noise. Each depends on its own seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import LenspipeError
from lenspipe.sim import render
from lenspipe.sim.blur import draw_conditions
from lenspipe.sim.by_slsim.galaxies import Galaxies
from lenspipe.sim.population import Population, draw
from lenspipe.sim.scene import LAYERS, Scene
from lenspipe.sim.skies import WHITE, Noise, Skies, objects
from lenspipe.sim.survey import Survey

_ATTEMPTS = 200


@dataclass(frozen=True)
class Observed:
    """N simulated objects.

    Attributes
    ----------
    scenes : N scenes.
    layers : (N, L, B, H, W) f4 noiseless flux per pixel, PSF applied, ordered as `LAYERS`.
    image : (N, B, H, W) f4, with noise.
    fwhm : (N, B) arcsec.
    sky_rms : (N, B) flux units.
    magnification : (N,) flux of the lensed over that of the unlensed source, NaN for non-lenses.
    arc_snr : (N,) S/N of the arcs, all bands and pixels, NaN for non-lenses.
    """

    scenes: list[Scene]
    layers: NDArray[np.float32]
    image: NDArray[np.float32]
    fwhm: NDArray[np.float64]
    sky_rms: NDArray[np.float64]
    magnification: NDArray[np.float64]
    arc_snr: NDArray[np.float64]

    def rows(self) -> list[dict[str, Any]]:
        """What is known of each object apart from its images: kind, fwhm, sky_rms, truth."""
        return [
            {
                "kind": scene.kind,
                "fwhm": self.fwhm[i],
                "sky_rms": self.sky_rms[i],
                "truth": {**scene.truth(), "magnification": self.magnification[i], "arc_snr": self.arc_snr[i]},
            }
            for i, scene in enumerate(self.scenes)
        ]


def observe(
    seeds: Sequence[int],
    is_lens: Sequence[bool],
    population: Population,
    survey: Survey,
    supersampling: int,
    noise: Noise = WHITE,
    skies: Skies | None = None,
    galaxies: Galaxies | None = None,
) -> Observed:
    """Simulate one object per seed; lenses too faint or too little magnified are drawn again.

    With `skies` each object lies on a real one, with its PSF; only its own photon noise is added, and what that sky
    shows joins the layer of others. `galaxies` are those of `population.slsim`.
    """
    n, n_bands = len(seeds), len(survey.bands)
    scenes: list[Scene] = [Scene("", ())] * n
    fwhm, sky_rms = np.empty((n, n_bands)), np.empty((n, n_bands))
    magnification, arc_snr, arc_pixels = (np.full(n, np.nan) for _ in range(3))
    layers = np.empty((n, len(LAYERS), n_bands, survey.n_pixels, survey.n_pixels), np.float32)
    todo, attempt = list(range(n)), 0
    while todo:
        if attempt == _ATTEMPTS:
            raise LenspipeError(_nothing_left(magnification[todo[0]], arc_snr[todo[0]], population))
        for row in todo:
            rng = np.random.default_rng([seeds[row], attempt])
            scenes[row] = draw(rng, population, survey, is_lens[row], galaxies)
            fwhm[row], sky_rms[row] = draw_conditions(rng, survey)
            if skies is not None:
                which, _ = skies.pick(_sky_rng(seeds[row]), survey.n_pixels)
                fwhm[row], sky_rms[row] = skies.fwhm[which], skies.rms[which]
        layers[todo] = render.layers([scenes[row] for row in todo], fwhm[todo], survey, supersampling)
        for row in todo:
            if scenes[row].is_lens:
                arcs = _arcs(scenes[row], layers[row], sky_rms[row], survey)
                magnification[row], arc_snr[row], arc_pixels[row] = arcs
        lost = (magnification < population.min_magnification) | (arc_snr < population.min_arc_snr)
        lost |= arc_pixels < population.min_arc_pixels
        todo, attempt = [row for row in todo if lost[row]], attempt + 1
    image = np.empty((n, *layers.shape[2:]), np.float32)
    for row, seed in enumerate(seeds):
        if skies is None:
            image[row] = _noisy(seed, layers[row].sum(0), sky_rms[row], survey, noise)
        else:
            _, sky = skies.pick(_sky_rng(seed), survey.n_pixels)
            image[row] = sky + _photons(np.random.default_rng([seed, _ATTEMPTS]), layers[row].sum(0), survey)
            layers[row, LAYERS.index("others")] += objects(sky, sky_rms[row])
    return Observed(scenes, layers, image, fwhm, sky_rms, magnification, arc_snr)


def _arcs(
    scene: Scene, layers: NDArray[np.float32], sky_rms: NDArray[np.float64], survey: Survey
) -> tuple[float, float, float]:
    """Magnification of all sources together, S/N of the arcs over all bands and pixels, pixels where they stand out."""
    arcs = layers[LAYERS.index("source")].astype(np.float64)
    unlensed = sum(survey.flux(item.magnitude).sum() for item in scene.lights if item.plane > 0)
    weight = 1 / np.square(sky_rms)
    weighed = np.einsum("lbhw,b->lhw", layers, weight / np.sqrt(weight.sum()))
    source = weighed[LAYERS.index("source")]
    others = np.delete(weighed, LAYERS.index("source"), axis=0).max(0)
    pixels = np.sum((source > others) & (source > 2))
    return float(arcs.sum() / unlensed), float(np.sqrt(np.sum((arcs / sky_rms[:, None, None]) ** 2))), float(pixels)


def _nothing_left(magnification: float, arc_snr: float, population: Population) -> str:
    """Which cut an object did not pass in all of its draws."""
    if magnification < population.min_magnification:
        cut = f"min_magnification {population.min_magnification:g} (the last one had {magnification:.3g})"
    elif arc_snr < population.min_arc_snr:
        cut = f"min_arc_snr {population.min_arc_snr:g} (the last one had {arc_snr:.3g})"
    else:
        cut = f"min_arc_pixels {population.min_arc_pixels}"
    return f"simulate: {_ATTEMPTS} lenses were drawn for one object and none passed {cut}."


def _sky_rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, _ATTEMPTS + 1])


def _photons(rng: np.random.Generator, model: NDArray[np.float32], survey: Survey) -> NDArray[np.float64]:
    """(B, H, W) of the model with its own photon noise: variance = model / gain."""
    gain = survey.effective_gain()[:, None, None]
    return np.asarray(rng.poisson(np.maximum(model, 0) * gain) / gain)


def _noisy(
    seed: int, model: NDArray[np.float32], sky_rms: NDArray[np.float64], survey: Survey, noise: Noise
) -> NDArray[np.float32]:
    """Photon noise of the objects and noise of the (subtracted) sky, each once: variance = sky_rms^2 + model / gain."""
    rng = np.random.default_rng([seed, _ATTEMPTS])
    photons = _photons(rng, model, survey)
    image = np.asarray(photons + noise.sky(rng, sky_rms, model.shape[1:]), dtype=np.float32)
    noise.mask(rng, image)
    return image
