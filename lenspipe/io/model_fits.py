"""``model.fits``: data, noise, model, residual and mask of one candidate, a plane per band, for ds9."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lenspipe.types import Cutout


def write_model_fits(
    path: Path, cutout: Cutout, planes: dict[str, NDArray[np.floating]], origin: tuple[int, int]
) -> None:
    """Extensions named as `planes` (each (B,H,W)), with the window's WCS.

    Parameters
    ----------
    origin : first (row, column) of the planes in the cutout.
    """
    header = fits.Header()
    header["OBJECT"] = cutout.id
    for b, band in enumerate(cutout.bands):
        header[f"BAND{b + 1}"] = (band, "plane of the cube")
    header["PIXSCALE"] = (cutout.pixel_scale, "arcsec per pixel")
    if cutout.unit:
        header["BUNIT"] = cutout.unit
    if cutout.cd is not None and np.isfinite([cutout.ra, cutout.dec]).all():
        rows, columns = cutout.shape
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CRVAL1"], header["CRVAL2"] = cutout.ra, cutout.dec
        # FITS counts from 1; RA and Dec are those of the cutout's centre, not of the window's.
        header["CRPIX1"], header["CRPIX2"] = (columns + 1) / 2 - origin[1], (rows + 1) / 2 - origin[0]
        for i in range(2):
            for j in range(2):
                header[f"CD{i + 1}_{j + 1}"] = cutout.cd[i, j]
    units = [fits.PrimaryHDU(header=header)]
    for name, plane in planes.items():
        data = plane.astype(np.uint8 if plane.dtype == bool else np.float32)
        units.append(fits.ImageHDU(data, header=header, name=name))
    fits.HDUList(units).writeto(path, checksum=True)
