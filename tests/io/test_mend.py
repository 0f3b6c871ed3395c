import numpy as np
import pytest
from lenstronomy.Util.kernel_util import kernel_moffat

from lenspipe.config import parse
from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.infer.noise import sigma_map
from lenspipe.io.mend import Raw, blank_edges, cutout, gaussian, moffat, odd, pad_to
from lenspipe.io.survey import SurveyFacts


def raw(**change):
    rng = np.random.default_rng(0)
    start = {
        "id": "a",
        "where": "file.fits, row 3",
        "bands": ("g", "r"),
        "image": rng.normal(size=(2, 41, 41)),
        "pixel_scale": 0.2,
        "noise": np.ones((2, 41, 41)),
        "psf": [gaussian(4.0, 15)],
    }
    return Raw(**{**start, **change})


def reason_of(**change):
    with pytest.raises(CandidateError) as caught:
        cutout(raw(**change), sigma_map)
    assert "file.fits, row 3" in caught.value.detail
    return caught.value.reason


def test_what_cannot_be_used():
    image = raw().image
    constant, empty = image.copy(), image.copy()
    constant[1], empty[1, :25] = 7.0, np.nan
    assert reason_of(image=constant) == Reason.IMAGE_CONSTANT
    assert reason_of(image=empty) == Reason.BAND_UNUSABLE
    assert reason_of(image=image * np.nan) == Reason.BAND_UNUSABLE
    assert reason_of(image=image[:1]) == Reason.BAND_MISSING
    assert reason_of(noise=np.ones((40, 41))) == Reason.SHAPE_MISMATCH
    assert reason_of(noise=-np.ones((41, 41))) == Reason.NOISE_INVALID
    assert reason_of(noise=np.full((41, 41), 1e8)) == Reason.NOISE_INVALID
    assert reason_of(psf=[]) == Reason.PSF_MISSING
    assert reason_of(psf=[], psf_fwhm=np.array([1.0, np.nan])) == Reason.PSF_MISSING
    assert reason_of(psf=[pad_to(gaussian(4.0, 15), (43, 43))]) == Reason.PSF_TOO_LARGE
    assert reason_of(psf=[1.2 * gaussian(4.0, 15)]) == Reason.PSF_NOT_NORMALISED
    assert reason_of(psf=[np.full((15, 15), np.nan)]) == Reason.PSF_NOT_NORMALISED


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e8, 1e16])
def test_pixels_without_noise_are_masked(value):
    noise = np.full((2, 41, 41), 2.0)
    noise[0, 5, 6] = value
    made = cutout(raw(noise=noise), sigma_map)
    assert not made.valid[0, 5, 6] and made.valid.sum() == made.valid.size - 1
    assert np.isfinite(made.sigma).all() and (made.sigma == 2.0).all()


@pytest.mark.parametrize(("kind", "value"), [("variance", 4.0), ("weight", 0.25), ("inverse_variance", 0.25)])
def test_kinds_of_noise_maps(kind, value):
    noise = np.full((41, 41), value)
    noise[0, 0] = -value
    made = cutout(raw(noise=noise, noise_kind=kind), sigma_map)
    assert (made.sigma == 2.0).all() and not made.valid[:, 0, 0].any()
    assert not made.sigma_measured and np.isnan(made.background_rms).all()


def test_not_finite_pixels_and_the_mask():
    image, bad = raw().image, np.zeros((41, 41))
    image[0, 1, 2], bad[3, 3] = np.nan, 1
    made = cutout(raw(image=image, bad=bad), sigma_map)
    assert np.isfinite(made.image).all()
    assert not made.valid[0, 1, 2] and made.valid[1, 1, 2] and not made.valid[:, 3, 3].any()
    assert any("not finite" in note for note in made.notes)


def test_blank_edges_are_masked_and_noise_is_not():
    image = raw().image
    image[0, :, :6] = 0.0
    made = cutout(raw(image=image), sigma_map)
    assert not made.valid[0, :, :6].any() and made.valid[0, :, 6:].all() and made.valid[1].all()
    assert not blank_edges(np.round(raw().image[0]).astype(np.float32)).any()


def test_sigma_is_measured_in_units_of_1e_12():
    image = 1e-12 * raw().image
    made = cutout(raw(image=image, noise=None, exposure_time=np.array(1e13)), sigma_map)
    assert made.sigma_measured
    assert made.background_rms == pytest.approx([1e-12, 1e-12], rel=0.1)
    brightest = np.unravel_index(made.image[0].argmax(), (41, 41))
    assert made.sigma[0][brightest] > made.background_rms[0]


def test_given_background_rms_is_not_measured():
    made = cutout(raw(noise=None, background_rms=np.array([2.0, 3.0])), sigma_map)
    assert not made.sigma_measured
    assert (made.sigma[0] == 2.0).all() and (made.sigma[1] == 3.0).all()
    assert any("photon noise" in note for note in made.notes)


def test_psf_within_ten_per_cent_is_renormalised_and_noted():
    made = cutout(raw(psf=[1.05 * gaussian(4.0, 15)]), sigma_map)
    assert made.psf.sum(axis=(1, 2)) == pytest.approx([1, 1], abs=1e-6)
    assert any("1.05" in note for note in made.notes)
    assert np.isnan(made.psf_fwhm).all()


def test_psfs_of_different_size_share_a_grid():
    made = cutout(raw(psf=[gaussian(2.0, 41), gaussian(5.0, 41)]), sigma_map)
    sizes = {p.shape for p in made.psf}
    assert len(sizes) == 1
    for psf in made.psf:
        assert np.unravel_index(psf.argmax(), psf.shape) == (psf.shape[0] // 2,) * 2


@pytest.mark.parametrize("centre", [15.0, 15.5, 16.0])
def test_even_psf_keeps_its_centre_and_width(centre):
    y, x = np.mgrid[:32, :32]
    psf = np.exp(-0.5 * ((x - centre) ** 2 + (y - 15.5) ** 2) / 2.5**2)
    made = odd(psf / psf.sum())
    assert made.shape == (31, 31)
    y, x = np.mgrid[:31, :31] - 15.0
    total = made.sum()
    assert (made * x).sum() / total == pytest.approx(0, abs=1e-3)
    assert (made * y).sum() / total == pytest.approx(0, abs=1e-3)
    assert np.sqrt((made * x**2).sum() / total) == pytest.approx(2.5, rel=5e-3)


def test_moffat_is_lenstronomys_and_holds_the_wings():
    psf = moffat(3.0, 2.5, 99)
    theirs = kernel_moffat(len(psf), 0.2, 0.6, 2.5)
    np.testing.assert_allclose(psf, theirs / theirs.sum(), rtol=1e-12)
    wide = moffat(3.0, 2.5, 999)
    assert np.array_equal(wide, psf) and psf.shape[0] % 2
    everything = (1 + np.hypot(*np.mgrid[-400:401, -400:401]) ** 2 / (3 / (2 * np.sqrt(2**0.4 - 1))) ** 2) ** -2.5
    assert psf.max() * everything.sum() / everything.max() == pytest.approx(1, abs=0.006)
    assert moffat(3.0, 2.5, 9).shape == (9, 9)


def test_a_moffat_psf_is_an_image():
    made = cutout(raw(psf=[], psf_fwhm=np.array([0.8]), psf_beta=np.array([3.0, np.nan])), sigma_map)
    assert np.isnan(made.psf_fwhm[0]) and made.psf_fwhm[1] == 0.8
    np.testing.assert_allclose(made.psf.sum((1, 2)), 1, rtol=1e-6)
    assert made.psf[0, 0].sum() > made.psf[1, 0].sum()


def test_a_moffat_without_a_finite_flux_is_refused():
    with pytest.raises(LenspipeError, match="psf_beta must be above 1"):
        parse(SurveyFacts, {"bands": ["g"], "psf_beta": {"g": 1.0}}, "survey")


def test_gaussian_reaches_four_sigma():
    psf = gaussian(5.0, 99)
    half = int(4 * 5.0 / 2.3548 + 0.5)
    assert psf.shape == (2 * half + 1,) * 2 and psf.sum() == pytest.approx(1)
    profile = psf[half] / psf[half, half]
    assert profile[half + 2] == pytest.approx(2 ** (-((2 / 2.5) ** 2)), rel=1e-3)
    assert gaussian(5.0, 9).shape == (9, 9)


def test_padding_keeps_the_middle():
    padded = pad_to(np.ones((1, 3, 5)), (7, 5))
    assert padded.shape == (1, 7, 5) and padded[0, 2:5].all() and padded.sum() == 15


def test_a_noise_map_of_another_kind_is_noted():
    image = 0.01 * raw().image
    made = cutout(raw(image=image, noise=np.full((41, 41), 1e4)), sigma_map)
    assert any("check its kind" in note for note in made.notes)
