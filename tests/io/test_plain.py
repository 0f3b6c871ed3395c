import gzip

import numpy as np
import pytest
from astropy.io import fits

from lenspipe.io.plain import plain_image


def write(path, data, **cards):
    header = fits.Header(cards)
    header["COMMENT"] = "said by the test"
    fits.PrimaryHDU(data, header).writeto(path)
    return path


@pytest.mark.parametrize("kind", ["u1", ">i2", ">i4", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 20, 30)])
def test_reads_what_astropy_reads(tmp_path, kind, shape):
    data = (100 * np.random.default_rng(0).random(shape)).astype(kind)
    cards = {"CTYPE1": "RA---TAN", "CRVAL1": -1.5e-3, "EXPTIME": 90, "GOOD": True, "NAME": "O'Neill's", "EMPTY": ""}
    path = write(tmp_path / "a.fits", data, **cards)
    found = plain_image(path)
    assert np.array_equal(found.data, data) and found.data.dtype.kind == data.dtype.kind
    header = fits.getheader(path)
    assert {key: found.header[key] for key in cards} == {key: header[key] for key in cards}
    assert found.header.text == header.tostring()


def test_leaves_all_else_to_astropy(tmp_path):
    data = np.ones((5, 7), "f4")
    plain = write(tmp_path / "plain.fits", data)
    content = plain.read_bytes()
    others = {
        "short": content[:-1],
        "header": content[:400],
        "long": content + content,
        "text": b"no FITS file",
        "empty": b"",
        "zipped": gzip.compress(content),
        "strange": content.replace(b"BITPIX  =                  -32", b"BITPIX  =                  -33"),
    }
    for name, changed in others.items():
        (tmp_path / f"{name}.fits").write_bytes(changed)
    write(tmp_path / "scaled.fits", np.ones((5, 7), "u2"))
    write(tmp_path / "continued.fits", data, LONG="x" * 100)
    write(tmp_path / "hierarchical.fits", data, **{"HIERARCH a long key": 1})
    fits.HDUList([fits.PrimaryHDU(data), fits.ImageHDU(data)]).writeto(tmp_path / "two.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data)]).writeto(tmp_path / "extension.fits")
    assert plain_image(plain) is not None
    for path in tmp_path.glob("*.fits"):
        assert path == plain or plain_image(path) is None, path.name
    assert plain_image(tmp_path / "nowhere") is None
