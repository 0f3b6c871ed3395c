"""lenstronomy's own likelihood of the same data and scene: what ours is held against, once a fit and in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.infer.likelihood import Imaging
from lenspipe.lensing.grid import Patch, patches
from lenspipe.lensing.params import FIELD, LIGHT, MASS
from lenspipe.lensing.scene import Component, Scene


class Lenstronomy:
    """``log_likelihood(vector)`` of (P,) physical parameters, computed by lenstronomy alone.

    Parameters
    ----------
    held : profile and keyword arguments of what each of the data's templates shows.
    subpixels : (H,W) of the pixels that have more than `supersampling`, else 0.
    """

    def __init__(
        self,
        data: Imaging,
        scene: Scene,
        supersampling: int = 1,
        held: Sequence[tuple[str, dict[str, float]]] = (),
        subpixels: NDArray[np.integer] | None = None,
    ):
        from lenstronomy.Sampling.Likelihoods.image_likelihood import ImageLikelihood

        self.data, self.scene, self.held = data, scene, held
        sources, lights = ([(c, b) for c in role for b in _bands_of(c)] for role in (scene.source, scene.lens_light))
        self.sources, self.lights, bands = sources, lights, range(len(data.image))
        used = {
            name: [[i for i, (_, b) in enumerate(profiles) if b in (None, band)] for band in bands]
            for name, profiles in (("source", sources), ("lens_light", lights))
        }
        sky = ["UNIFORM"] if scene.sky else []
        masks = [m.astype(float) for m in data.mask]
        self.image_likelihood = ImageLikelihood(
            [band_settings(data, b, supersampling) for b in bands],
            "multi-linear",
            {
                "lens_model_list": [c.profile for c in scene.lens],
                "source_light_model_list": [c.profile for c, _ in sources],
                "lens_light_model_list": [c.profile for c, _ in lights] + sky,
                "index_source_light_model_list": used["source"],
                "index_lens_light_model_list": [[*used["lens_light"][b], *[len(lights)] * len(sky)] for b in bands],
            },
            image_likelihood_mask_list=masks,
            check_positive_flux=True,
        )
        if subpixels is not None:
            for model in self.image_likelihood.imSim._image_model_list:
                numerics = model.ImageNumerics._numerics_subframe
                numerics._grid = _Grid(numerics._grid, patches(subpixels, data.pixel_scale))
        # What is held was rendered a value per pixel.
        self.held_likelihood = ImageLikelihood(
            [band_settings(data, b, 1) for b in bands],
            "multi-linear",
            {"lens_light_model_list": [profile for profile, _ in held]},
            image_likelihood_mask_list=masks,
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
        if self.held:
            return self._with_held(vector)
        value, _ = self.image_likelihood.logL(**self.kwargs(vector), kwargs_ps=[])
        return float(value)

    def _with_held(self, vector: NDArray[np.float64]) -> float:
        """From lenstronomy's images, all amplitudes by least squares: its own solver takes so many for singular."""
        assert self.data.sigma is not None and self.data.templates is not None
        own = self.kwargs(vector)
        held = {**own, "kwargs_source": [], "kwargs_lens_light": [{"amp": 1.0, **k} for _, k in self.held]}
        value = 0.0
        for b, templates in enumerate(self.data.templates):
            used = self.data.mask[b]
            root = 1 / self.data.sigma[b][used]
            images = np.concatenate(
                [
                    self._images(self.image_likelihood, b, own),
                    self._images(self.held_likelihood, b, held)[templates.any((1, 2))],
                ]
            )
            columns = (images * root).T
            columns /= np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
            target = self.data.image[b][used] * root
            best = np.linalg.lstsq(columns, target, rcond=1e-6)[0]
            value -= 0.5 * float(((target - columns @ best) ** 2).sum())
        return value

    @staticmethod
    def _images(likelihood: Any, band: int, kwargs: dict[str, Any]) -> NDArray[np.float64]:
        """(L, D) unit-amplitude images of the used pixels."""
        model = likelihood.imSim._image_model_list[band]
        found = model.linear_response_matrix(
            kwargs["kwargs_lens"], kwargs["kwargs_source"], kwargs["kwargs_lens_light"]
        )
        return np.asarray(found, dtype=np.float64)


class _Grid:
    """lenstronomy's grid, with more points in some pixels. Its own adaptive one knows two densities only."""

    def __init__(self, grid: Any, finer: Sequence[Patch]):
        self.grid, self.patches = grid, finer
        x, y = grid.coordinates_evaluate
        self.coordinates_evaluate = (
            np.concatenate([x, *(p.x.numpy().ravel() for p in finer)]),
            np.concatenate([y, *(p.y.numpy().ravel() for p in finer)]),
        )
        ends = np.cumsum([len(x), *(p.x.numel() for p in finer)])
        self.cuts = ends[:-1]

    def flux_array2image_low_high(self, flux: NDArray[np.float64], **options: Any) -> tuple[NDArray[np.float64], None]:
        """The mean over each pixel's points, (H,W); nothing is convolved in a finer grid."""
        everywhere, *finer = np.split(flux, self.cuts)
        image, _ = self.grid.flux_array2image_low_high(everywhere, **options)
        for patch, values in zip(self.patches, finer):
            image[patch.rows, patch.columns] = values.reshape(patch.x.shape).mean(1)
        return image, None


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
