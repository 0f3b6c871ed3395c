import numpy as np
import pytest

from lenspipe.sim.survey import Band, Survey


def test_effective_gain_counts_the_whole_coadd_at_the_zero_point():
    band = Band(name="g", wavelength=480, electron_zero_point=30.0, sky_brightness=22.0, psf_fwhm=1.0)
    survey = Survey(bands=(band,), zero_point=30.0, exposure_s=90.0, n_exposures=10)
    assert survey.effective_gain() == pytest.approx([900.0])  # one flux unit = one electron a second
    brighter = survey.model_copy(update={"zero_point": 27.5})
    assert brighter.effective_gain() == pytest.approx([9000.0])  # one unit is ten times the light


def test_sky_rms_is_photons_and_read_noise_once():
    band = Band(name="g", wavelength=480, electron_zero_point=25.0, sky_brightness=20.0, psf_fwhm=1.0)
    survey = Survey(bands=(band,), zero_point=25.0, exposure_s=100.0, n_exposures=4, read_noise=5.0, pixel_scale=0.5)
    electrons = 4 * (100 * 100 * 0.25 + 25)  # 100 e-/s per square arcsec, a quarter of one per pixel
    assert survey.sky_rms() == pytest.approx([np.sqrt(electrons) / 400])


def test_default_depth_is_near_that_of_des():
    survey = Survey()
    pixels = np.pi / survey.pixel_scale**2  # a circle of 2 arcsec diameter
    depth = survey.zero_point - 2.5 * np.log10(10 * survey.sky_rms() * np.sqrt(pixels))
    assert depth == pytest.approx([24.7, 24.4, 23.8], abs=0.25)
