"""Lenses with known parameters, seen by our own renderer, for the tests of the fit."""

import numpy as np
import torch

from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import build
from lenspipe.types import Cutout, Masks

SCENE = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
TRUTH = {
    "theta_E": 1.5,
    "e1": 0.1,
    "e2": -0.06,
    "center_x": 0.03,
    "center_y": -0.02,
    "gamma1": 0.02,
    "gamma2": -0.01,
    "source_R_sersic": 0.3,
    "source_n_sersic": 1.2,
    "source_e1": 0.05,
    "source_e2": 0.1,
    "source_center_x": 0.2,
    "source_center_y": 0.12,
    "lens_light_R_sersic": 1.1,
    "lens_light_n_sersic": 3.5,
    "lens_light_e1": 0.08,
    "lens_light_e2": -0.05,
}
VECTOR = np.array([TRUTH[name] for name in SCENE.names])
GAIN = 36.0


def lens(size: int = 45, scale: float = 0.2637, depth: float = 1.0, seed: int = 1) -> tuple[Cutout, Masks]:
    """A DES-like g, r, i lens with its true masks; `depth` divides the noise."""
    fwhm, rms = np.array([1.25, 0.9, 0.8]), np.array([1.8, 2.2, 3.2]) / depth
    blank = np.zeros((3, size, size))
    data = Imaging(
        blank, np.ones_like(blank, bool), scale, background_rms=rms, exposure_time=np.full(3, GAIN), psf_fwhm=fwhm
    )
    layers = Likelihood(data, SCENE).response(torch.as_tensor(VECTOR)[None])[0].numpy()
    source = np.array([12.0, 10.0, 9.0])[:, None, None] * layers[0]
    galaxy = np.array([4.0, 14.0, 22.0])[:, None, None] * layers[1]
    variance = rms[:, None, None] ** 2 + (source + galaxy) / GAIN
    image = source + galaxy + np.random.default_rng(seed).normal(size=blank.shape) * np.sqrt(variance)
    cutout = Cutout(
        id="mock",
        bands=("g", "r", "i"),
        image=image.astype(np.float32),
        sigma=np.sqrt(variance).astype(np.float32),
        valid=np.ones_like(blank, bool),
        psf=np.stack([gaussian_kernel(fwhm.max(), scale)] * 3).astype(np.float32),
        psf_fwhm=fwhm,
        pixel_scale=scale,
        background_rms=rms,
        exposure_time=np.full(3, GAIN),
        zero_point=np.full(3, 30.0),
        cd=np.diag([-scale, scale]) / 3600,
    )
    signal = (np.stack([source, galaxy]) / rms[:, None, None]).sum(1) / np.sqrt(3)
    probability = np.zeros((4, size, size), np.float32)
    visible = signal.max(0) > 2
    probability[0], probability[1] = visible & (signal[0] > signal[1]), visible & (signal[0] <= signal[1])
    probability[3] = ~visible
    return cutout, Masks(probability, "truth")
