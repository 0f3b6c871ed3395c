"""Which files a source stands for; what they hold is tested with the stage ``convert``."""

import numpy as np
import pytest
from astropy.io import fits as afits
from astropy.table import Table

from lenspipe.io import fits
from lenspipe.io.layouts import Reader, files
from lenspipe.io.pictures import Pairs
from lenspipe.io.survey import SurveyFacts


@pytest.fixture
def data(tmp_path):
    """A folder of two candidates, a table and what belongs to neither."""
    image = np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype("f4")
    for name, parts in (("a", ("image", "noise", "psf")), ("b", ("image", "mask")), (".hidden", ("image",))):
        (tmp_path / name).mkdir()
        for part in (*parts, "thumbnail"):
            afits.writeto(tmp_path / name / f"{part}.fits", image[0, 0])
    table = afits.table_to_hdu(Table({"id": ["t0", "t1"]}))
    afits.HDUList([afits.PrimaryHDU(), afits.ImageHDU(image), table]).writeto(tmp_path / "table.fits")
    (tmp_path / "readme.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "layout", "names"),
    [
        ("$DATA", "auto", ["a/image", "a/noise", "a/psf", "b/image", "b/mask", "table"]),
        ("$DATA", "table", ["table"]),
        (["$DATA/b", "$DATA/t*.fits", "$DATA/nowhere.fits"], "auto", ["b/image", "b/mask", "table", "nowhere"]),
        ("$DATA/?", "folders", ["a/image", "a/noise", "a/psf", "b/image", "b/mask"]),
        ({"g": "$DATA/table.fits"}, "auto", ["table"]),
    ],
)
def test_files_are_those_that_are_opened(data, monkeypatch, source, layout, names):
    monkeypatch.setenv("DATA", str(data))
    opened = []
    actual = fits.opened
    monkeypatch.setattr(fits, "opened", lambda path: (opened.append(path), actual(path))[1])
    survey = SurveyFacts(bands=("g",), pixel_scale=0.2, psf_fwhm=0.5)
    reader = Reader(survey, lambda *_: np.ones((9, 9)), layout)
    assert [entry for place in reader.places(source) for entry in reader.entries(place, range(reader.count(place)))]
    found = list(files(source, layout, Pairs()))
    assert found == [data / f"{name}.fits" for name in names]
    # A candidate that fails at its image leaves its other parts unread.
    assert set(opened) <= set(found)
    assert {path.parent for path in found} == {path.parent for path in opened}
