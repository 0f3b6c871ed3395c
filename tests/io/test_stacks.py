import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table

from lenspipe.io.stacks import FitsStacks


def test_images_in_pieces_read_back_as_a_whole(tmp_path):
    path = tmp_path / "stacks.fits"
    images = np.random.default_rng(0).normal(size=(11, 2, 9, 7)).astype(np.float32)
    table = Table({"id": [f"a{i}" for i in range(11)], "theta_E": np.arange(11.0) * units.arcsec})
    with FitsStacks(path, ["IMAGE", "LENS"], images.shape, {"SEED": ("7", "")}, {"MAGZERO": (30.0, "mag")}) as file:
        for start in (8, 0, 4):
            file.write("LENS", start, 2 * images[start : start + 4])
            file.write("IMAGE", start, images[start : start + 4])
        file.finish(table, "CATALOGUE")
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IMAGE", "LENS", "CATALOGUE"]
        assert np.array_equal(hdus["IMAGE"].data, images) and np.array_equal(hdus["LENS"].data, 2 * images)
        assert (hdus[0].header["SEED"], hdus[2].header["MAGZERO"]) == ("7", 30.0)
    assert Table.read(path, hdu=3)["theta_E"].unit == units.arcsec


def test_a_file_of_no_objects_has_no_images(tmp_path):
    with FitsStacks(tmp_path / "x.fits", ["IMAGE"], (0, 2, 3), {}, {}) as file:
        file.finish(Table({"id": np.array([], dtype=int)}), "CATALOGUE")
    assert fits.getheader(tmp_path / "x.fits", 1)["NAXIS3"] == 0


def test_an_unknown_extension_is_refused(tmp_path):
    with FitsStacks(tmp_path / "x.fits", ["IMAGE"], (1, 2, 3), {}, {}) as file, pytest.raises(KeyError):
        file.write("SOURCE", 0, np.zeros((1, 2, 3)))
