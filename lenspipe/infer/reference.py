"""lenstronomy's own likelihood of the same data and scene: what ours is held against, once a fit and in the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.infer.likelihood import Imaging
from lenspipe.lensing.params import FIELD, LIGHT, MASS
from lenspipe.lensing.scene import Component, Scene


class Lenstronomy:
    """``log_likelihood(vector)`` of (P,) physical parameters, computed by lenstronomy alone."""

    def __init__(self, data: Imaging, scene: Scene, supersampling: int = 1):
        from lenstronomy.Sampling.Likelihoods.image_likelihood import ImageLikelihood

        self.scene = scene
        sources, lights = ([(c, b) for c in role for b in _bands_of(c)] for role in (scene.source, scene.lens_light))
        self.sources, self.lights, bands = sources, lights, range(len(data.image))
        used = {
            name: [[i for i, (_, b) in enumerate(profiles) if b in (None, band)] for band in bands]
            for name, profiles in (("source", sources), ("lens_light", lights))
        }
        sky = ["UNIFORM"] if scene.sky else []
        self.image_likelihood = ImageLikelihood(
            [band_settings(data, b, supersampling) for b in range(len(data.image))],
            "multi-linear",
            {
                "lens_model_list": [c.profile for c in scene.lens],
                "source_light_model_list": [c.profile for c, _ in sources],
                "lens_light_model_list": [c.profile for c, _ in lights] + sky,
                "index_source_light_model_list": used["source"],
                "index_lens_light_model_list": [[*used["lens_light"][b], *[len(lights)] * len(sky)] for b in bands],
            },
            image_likelihood_mask_list=[m.astype(float) for m in data.mask],
            check_positive_flux=True,
        )

    def kwargs(self, vector: NDArray[np.float64]) -> dict[str, Any]:
        """lenstronomy's keyword-argument lists of a (P,) vector, amplitudes 1."""

        def named(names: tuple[str, ...], columns: tuple[int, ...]) -> dict[str, float]:
            return dict(zip(names, (float(vector[i]) for i in columns)))

        lens = [
            named(MASS[c.profile], c.columns) | ({"ra_0": 0.0, "dec_0": 0.0} if c.profile in FIELD else {})
            for c in self.scene.lens
        ]
        source, light = (
            [{"amp": 1.0, **named(LIGHT[c.profile], c.in_band(b or 0))} for c, b in profiles]
            for profiles in (self.sources, self.lights)
        )
        if self.scene.sky:
            light.append({"amp": 1.0})
        return {"kwargs_lens": lens, "kwargs_source": source, "kwargs_lens_light": light}

    def log_likelihood(self, vector: NDArray[np.float64]) -> float:
        value, _ = self.image_likelihood.logL(**self.kwargs(vector), kwargs_ps=[])
        return float(value)


def _bands_of(component: Component) -> list[int] | list[None]:
    """The bands that have a copy of their own; [None] where all share one."""
    return list(range(len(component.per_band))) if component.per_band else [None]


def band_settings(data: Imaging, b: int, supersampling: int) -> list[dict[str, Any]]:
    """lenstronomy's description of band `b`: data, PSF, numerics."""
    height, width = data.shape
    scale = data.pixel_scale
    pixels: dict[str, Any] = {
        "image_data": np.where(data.mask[b], data.image[b], 0).astype(float),
        "ra_at_xy_0": -(width - 1) / 2 * scale,
        "dec_at_xy_0": -(height - 1) / 2 * scale,
        "transform_pix2angle": np.eye(2) * scale,
    }
    if data.exposure_time is not None and data.background_rms is not None:
        pixels["background_rms"] = float(data.background_rms[b])
        pixels["exposure_time"] = float(data.exposure_time[b])
    elif data.sigma is not None:
        pixels["noise_map"] = np.where(data.mask[b], data.sigma[b], 1).astype(float)
    if data.psf_fwhm is not None:
        psf = {"psf_type": "GAUSSIAN", "fwhm": float(data.psf_fwhm[b]), "pixel_size": scale, "truncation": 4}
    elif data.psf is not None:
        psf = {"psf_type": "PIXEL", "kernel_point_source": data.psf[b].astype(float)}
    return [pixels, psf, {"supersampling_factor": supersampling, "supersampling_convolution": False}]
