import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as afits

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer.noise import sigma_map
from lenspipe.io.candidate import read_candidate
from lenspipe.io.mend import gaussian
from lenspipe.io.survey import SurveyFacts


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = {name: tmp_path / f"{name}.fits.gz" for name in ("image", "noise", "psf")}
    afits.PrimaryHDU(rng.normal(size=(31, 41)).astype(">f8")).writeto(paths["image"])
    afits.PrimaryHDU(np.ones((31, 41), ">f4")).writeto(paths["noise"])
    afits.PrimaryHDU(gaussian(3.0, 11)).writeto(paths["psf"])
    return paths


def read(files, *, id="x", **facts):
    survey = SurveyFacts(**{"pixel_scale": 0.05, **facts})
    return read_candidate(files["image"], files["noise"], files["psf"], survey=survey, sigma_map=sigma_map, id=id)


def add_header(path, **cards):
    with afits.open(path) as hdus:
        hdus[0].header.update(cards)
        hdus.writeto(path, overwrite=True)


def wcs_cards(scale, east=-1):
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 10.0,
        "CRVAL2": 0.0,
        "CRPIX1": 21.0,
        "CRPIX2": 16.0,
        "CDELT1": east * scale / 3600,
        "CDELT2": scale / 3600,
    }


def test_three_files(files):
    made = read(files)
    assert made.id == "x" and made.bands == ("image",) and made.image.shape == (1, 31, 41)
    assert made.image.dtype == np.float32 and made.image.dtype.isnative and made.psf.dtype.isnative
    assert (made.sigma == 1).all() and made.cd is None and np.isnan(made.ra)


def test_stated_orientation(files):
    made = read(files, orientation="north-up-east-left")
    assert made.cd == pytest.approx(np.array([[-1, 0], [0, 1]]) * 0.05 / 3600)


def test_header_wcs_gives_scale_orientation_and_place(files):
    add_header(files["image"], **wcs_cards(0.1))
    made = read(files, pixel_scale=None)
    assert made.pixel_scale == pytest.approx(0.1)
    assert made.cd == pytest.approx(np.array([[-1, 0], [0, 1]]) * 0.1 / 3600, abs=1e-9)
    assert (made.ra, made.dec) == pytest.approx((10.0, 0.0))
    assert read(files, orientation="unknown").cd is None


def test_header_that_disagrees_is_noted(files):
    add_header(files["image"], **wcs_cards(0.1, east=1), BAND="i", BUNIT="nJy", MAGZERO=25.0)
    made = read(files, orientation="north-up-east-left", bands=("g",), unit="e-/s")
    assert made.pixel_scale == 0.05 and made.bands == ("g",) and made.unit == "e-/s"
    assert made.cd[0, 0] > 0 and made.zero_point.tolist() == [25.0]
    text = " ".join(made.notes)
    assert all(word in text for word in ("pixel scale", "north up", "band i", "nJy"))


def test_reasons(files, tmp_path):
    def reason(*paths, id="x", **facts):
        with pytest.raises(CandidateError) as caught:
            read_candidate(*paths, survey=SurveyFacts(**{"pixel_scale": 0.05, **facts}), sigma_map=sigma_map, id=id)
        return caught.value.reason

    image, noise, psf = files.values()
    assert reason(image, noise, psf, pixel_scale=None) == Reason.PIXEL_SCALE_UNKNOWN
    assert reason(image, noise, psf, id="../x") == Reason.ID_INVALID
    assert reason(image, noise, psf, bands=("g", "r")) == Reason.BAND_MISSING
    assert reason(image, noise) == Reason.PSF_MISSING
    assert reason(image, tmp_path / "no.fits", psf) == Reason.FILE_MISSING


def test_gaussian_psf_and_known_noise(files):
    survey = SurveyFacts(pixel_scale=0.05, psf_fwhm=0.2, background_rms=0.5, exposure_time=100)
    made = read_candidate(files["image"], survey=survey, sigma_map=sigma_map)
    assert made.id == "image" and made.psf_fwhm.tolist() == [0.2]
    assert made.sigma == pytest.approx(np.sqrt(0.25 + made.image.clip(0) / 100))


def test_extensions_named_by_band_and_role(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "mef.fits"
    hdus = [afits.PrimaryHDU()]
    for band, size in (("VIS", 11), ("NIR_Y", 17)):
        hdus.append(afits.ImageHDU(rng.normal(size=(40, 40)), name=f"{band}_FLUX"))
        hdus.append(afits.ImageHDU(gaussian(3.0, size), name=f"{band}_PSF"))
        hdus.append(afits.ImageHDU(np.full((40, 40), 4.0), name=f"{band}_VAR"))
    hdus[1].header["MAGZERO"] = 24.6
    hdus[4].header["MAGZERO"] = 29.8
    afits.HDUList(hdus).writeto(path)
    both = read_candidate(path, survey=SurveyFacts(pixel_scale=0.1), sigma_map=sigma_map)
    assert both.bands == ("VIS", "NIR_Y") and both.zero_point.tolist() == [24.6, 29.8]
    assert (both.sigma == 2).all()
    one = read_candidate(path, survey=SurveyFacts(pixel_scale=0.1, bands=("NIR_Y",)), sigma_map=sigma_map)
    assert (one.image[0] == both.image[1]).all() and one.zero_point.tolist() == [29.8]
    with pytest.raises(CandidateError) as caught:
        read_candidate(path, survey=SurveyFacts(pixel_scale=0.1, bands=("VIS", "NIR_H")), sigma_map=sigma_map)
    assert caught.value.reason == Reason.BAND_MISSING and "NIR_H" in caught.value.detail


@pytest.mark.skipif("LENSPIPE_DATA" not in os.environ, reason="LENSPIPE_DATA is not set")
def test_euclid_cutout():
    path = Path(os.environ["LENSPIPE_DATA"]) / "euclid_q1" / "102020532_NEG589257492489565961.fits.gz"
    made = read_candidate(path, survey=SurveyFacts(), sigma_map=sigma_map)
    assert made.bands == ("VIS", "NIR_Y", "NIR_J", "NIR_H") and made.image.shape == (4, 300, 300)
    assert made.pixel_scale == pytest.approx(0.1) and made.zero_point.tolist() == [24.6, 29.8, 30.0, 29.9]
    assert not made.valid[1].all() and made.sigma.max() < 1e8
    assert made.psf.shape == (4, 33, 33) and made.psf.sum(axis=(1, 2)) == pytest.approx(np.ones(4), abs=1e-5)
    assert any("0.95" in note and "VIS" in note for note in made.notes)
