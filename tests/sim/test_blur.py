import numpy as np
import pytest
import torch

from lenspipe.lensing.psf import gaussian_kernel, moffat_kernel
from lenspipe.sim.blur import blur_for, point_images
from lenspipe.sim.survey import Survey

FWHM = np.array([1.25, 0.9, 0.8])


def survey(*betas):
    bands = tuple(band.model_copy(update={"psf_beta": beta}) for band, beta in zip(Survey().bands, betas))
    return Survey(bands=bands)


@pytest.mark.parametrize("betas", [(None, None, None), (3.0, 2.5, 4.0), (3.0, None, None)])
def test_each_band_has_its_own_psf(betas):
    seen = survey(*betas)
    points = torch.zeros(3, 45, 45, dtype=torch.float64)
    points[:, 22, 22] = 1
    blurred = blur_for(seen, FWHM, torch.float64).each(points).numpy()
    for image, fwhm, beta in zip(blurred, FWHM, betas):
        scale = seen.pixel_scale
        kernel = gaussian_kernel(fwhm, scale) if beta is None else moffat_kernel(fwhm, beta, scale, 45)
        half = len(kernel) // 2
        assert image[22 - half : 23 + half, 22 - half : 23 + half] == pytest.approx(kernel, abs=1e-12)
    # A point is the same PSF, up to what lies beyond the kernel's edge.
    assert point_images(seen, FWHM, 0.0, 0.0) == pytest.approx(blurred, abs=0.01 * blurred.max())
