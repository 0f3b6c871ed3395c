import gzip

import numpy as np
import pytest
from astropy.io import fits as afits
from astropy.wcs import WCS

from lenspipe.errors import CandidateError, Reason
from lenspipe.io import fits


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "a.fits"
    image = np.arange(40 * 40, dtype="f4").reshape(40, 40)
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(image, name="ONE"), afits.ImageHDU(image, name="TWO")]).writeto(
        path
    )
    return path


def reason_of(path):
    with pytest.raises(CandidateError) as caught, fits.opened(path):
        pass
    assert str(path) in caught.value.detail
    return caught.value.reason


def test_data_come_through(whole):
    with fits.opened(whole) as (hdus, notes):
        assert notes == []
        assert fits.image_data(hdus["TWO"], "x")[3, 4] == 124


@pytest.mark.parametrize("zipped", [False, True])
def test_missing_data_are_an_error(whole, tmp_path, zipped):
    cut = whole.read_bytes()[: -2880 - 100]
    path = tmp_path / ("cut.fits.gz" if zipped else "cut.fits")
    path.write_bytes(gzip.compress(cut) if zipped else cut)
    assert reason_of(path) == Reason.FILE_TRUNCATED


def test_missing_padding_is_only_noted(whole, tmp_path):
    path = tmp_path / "cut.fits"
    padding = -(40 * 40 * 4) % 2880
    path.write_bytes(whole.read_bytes()[: -padding + 10])
    with fits.opened(path) as (hdus, notes):
        assert "padding" in notes[0]
        assert fits.image_data(hdus["TWO"], "x")[39, 39] == 1599


@pytest.mark.parametrize("keep", [0, 100, 2880 + 400])
def test_a_cut_header_is_an_error(whole, tmp_path, keep):
    path = tmp_path / "cut.fits"
    path.write_bytes(whole.read_bytes()[:keep])
    assert reason_of(path) == Reason.FILE_TRUNCATED


def test_a_cut_gzip_stream_is_an_error(whole, tmp_path):
    path = tmp_path / "cut.fits.gz"
    path.write_bytes(gzip.compress(whole.read_bytes())[:-300])
    assert reason_of(path) == Reason.FILE_TRUNCATED


def test_other_files_are_unreadable(tmp_path):
    path = tmp_path / "a.fits"
    path.write_text("not a FITS file at all\n" * 200)
    assert reason_of(path) == Reason.FILE_UNREADABLE
    assert reason_of(tmp_path / "none.fits") == Reason.FILE_MISSING


def test_a_damaged_header_is_unreadable(whole, tmp_path):
    content = whole.read_bytes()
    path = tmp_path / "bad.fits"
    path.write_bytes(content.replace(b"NAXIS   =                    2", b"NAXIS   =                    ?", 1))
    assert reason_of(path) == Reason.FILE_UNREADABLE


def test_cd_matrix_of_a_rotated_wcs_far_from_its_tangent_point():
    angle, scale = np.radians(30), 0.2 / 3600
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 60.0], [20.5, 20.5]
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    header = wcs.to_header()
    cd, ra, dec = fits.sky_position(header, (40, 40))
    assert cd == pytest.approx(wcs.wcs.cd, abs=1e-4 * scale)
    assert (ra, dec) == pytest.approx((150.0, 60.0), abs=1e-6)
    header["CRPIX1"] += 20000  # 1.1 degrees away, where the meridian is turned
    cd, _, _ = fits.sky_position(header, (40, 40))
    assert abs(cd[1, 0] - wcs.wcs.cd[1, 0]) > 0.01 * scale
    assert np.sqrt(abs(np.linalg.det(cd))) == pytest.approx(scale, rel=1e-3)
    assert fits.sky_position(afits.Header(), (40, 40)) is None


def test_stem():
    from pathlib import Path

    assert [fits.stem(Path(n)) for n in ("a.fits", "a.b.fits.gz", "a.FIT", "a.fits.fz")] == ["a", "a.b", "a", "a"]
