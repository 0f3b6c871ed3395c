"""Whole simulated objects: draw, render, keep or draw again, add noise. Each depends on its own seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import LenspipeError
from lenspipe.sim import render
from lenspipe.sim.population import LAYERS, Population, Scene, draw
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
    """

    scenes: list[Scene]
    layers: NDArray[np.float32]
    image: NDArray[np.float32]
    fwhm: NDArray[np.float64]
    sky_rms: NDArray[np.float64]
    magnification: NDArray[np.float64]


def observe(
    seeds: Sequence[int],
    is_lens: Sequence[bool],
    population: Population,
    survey: Survey,
    supersampling: int,
) -> Observed:
    """Simulate one object per seed; lenses too faint or too little magnified are drawn again."""
    n, n_bands = len(seeds), len(survey.bands)
    scenes: list[Scene] = [Scene("", ())] * n
    fwhm, sky_rms, magnification = np.empty((n, n_bands)), np.empty((n, n_bands)), np.full(n, np.nan)
    layers = np.empty((n, len(LAYERS), n_bands, survey.n_pixels, survey.n_pixels), np.float32)
    todo, attempt = list(range(n)), 0
    while todo:
        if attempt == _ATTEMPTS:
            raise LenspipeError(
                f"simulate: no lens with magnification > {population.min_magnification} and arc S/N > "
                f"{population.min_arc_snr} came up in {_ATTEMPTS} draws; lower these or brighten the sources."
            )
        for row in todo:
            rng = np.random.default_rng([seeds[row], attempt])
            scenes[row] = draw(rng, population, survey, is_lens[row])
            fwhm[row] = survey.per_band("psf_fwhm") * np.exp(rng.normal(0, survey.psf_scatter, n_bands))
            sky_rms[row] = survey.sky_rms() * np.exp(rng.normal(0, survey.sky_scatter, n_bands))
        layers[todo] = render.layers([scenes[row] for row in todo], fwhm[todo], survey, supersampling)
        todo, attempt = (
            [row for row in todo if not _keep(row, scenes, layers, sky_rms, magnification, population, survey)],
            attempt + 1,
        )
    image = np.stack([_noisy(seed, layers[i].sum(0), sky_rms[i], survey) for i, seed in enumerate(seeds)])
    return Observed(scenes, layers, image, fwhm, sky_rms, magnification)


def _keep(
    row: int,
    scenes: list[Scene],
    layers: NDArray[np.float32],
    sky_rms: NDArray[np.float64],
    magnification: NDArray[np.float64],
    population: Population,
    survey: Survey,
) -> bool:
    """Whether a drawn object stays; notes its magnification."""
    scene = scenes[row]
    if not scene.is_lens:
        return True
    arcs = layers[row, LAYERS.index("source")].astype(np.float64)
    magnification[row] = arcs.sum() / survey.flux(scene.lights[1].magnitude).sum()
    snr = np.sqrt(np.sum((arcs / sky_rms[row][:, None, None]) ** 2))
    return bool(magnification[row] >= population.min_magnification and snr >= population.min_arc_snr)


def _noisy(seed: int, model: NDArray[np.float32], sky_rms: NDArray[np.float64], survey: Survey) -> NDArray[np.float32]:
    """Photon noise of the objects and noise of the (subtracted) sky, each once: variance = sky_rms^2 + model / gain."""
    rng = np.random.default_rng([seed, _ATTEMPTS])
    gain = survey.effective_gain()[:, None, None]
    photons = rng.poisson(np.maximum(model, 0) * gain) / gain
    return np.asarray(photons + rng.normal(0, 1, model.shape) * sky_rms[:, None, None], dtype=np.float32)
