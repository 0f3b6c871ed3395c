import os
from pathlib import Path

import numpy as np
import pytest

from lenspipe.nets.classical import segment
from lenspipe.types import CLASSES, Cutout

SCALE = 0.05


def cutout(image, sigma, valid=None):
    bands = image.shape[0]
    nan = np.full(bands, np.nan)
    return Cutout(
        id="test",
        bands=tuple("gri"[:bands]),
        image=image.astype(np.float32),
        sigma=np.broadcast_to(np.float32(sigma), image.shape).astype(np.float32),
        valid=np.ones(image.shape, bool) if valid is None else valid,
        psf=np.ones((bands, 1, 1), np.float32),
        psf_fwhm=nan,
        pixel_scale=SCALE,
        background_rms=nan,
        exposure_time=nan,
        zero_point=nan,
    )


def scene(ring=6.0, neighbour=True, galaxy=400.0, unit=1.0):
    """A steep elliptical, a ring of 1.2 arcsec and a neighbour at 4.6 arcsec, in unit noise."""
    n = 201
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * SCALE
    radius = np.sqrt(0.8 * x**2 + y**2 / 0.8 + 0.05**2)
    image = galaxy * np.exp(-3.7 * ((radius / 0.8) ** 0.5))
    arc = ring * np.exp(-0.5 * ((np.hypot(x, y) - 1.2) / 0.12) ** 2)
    other = 60 * np.exp(-0.5 * ((x - 3.3) ** 2 + (y + 3.2) ** 2) / 0.15**2)
    clean = image + arc + (other if neighbour else 0)
    noisy = clean + np.random.default_rng(3).normal(0, 1, clean.shape)
    return cutout(unit * noisy[None], unit), np.hypot(x, y), np.hypot(x - 3.3, y + 3.2)


def best(probability):
    return np.array(CLASSES)[probability.argmax(0)]


def test_finds_ring_galaxy_neighbour_and_sky():
    image, radius, from_neighbour = scene()
    probability = segment(image)
    assert probability.shape == (4, 201, 201) and probability.dtype == np.float32
    assert probability.sum(0) == pytest.approx(np.ones((201, 201)), abs=1e-5)
    classes = best(probability)
    assert np.mean(classes[np.abs(radius - 1.2) < 0.1] == "source") > 0.9
    assert np.mean(classes[radius < 0.6] == "lens") > 0.95
    assert np.mean(classes[from_neighbour < 0.2] == "noise") > 0.9
    assert np.mean(classes[radius > 4.8] == "background") > 0.8


def test_no_arc_no_source():
    image, _, _ = scene(ring=0.0)
    assert np.mean(best(segment(image)) == "source") < 0.001


def test_blank_field_is_background():
    noise = np.random.default_rng(0).normal(0, 1, (2, 60, 60))
    assert np.mean(best(segment(cutout(noise, 1.0))) == "background") > 0.98


def test_flux_unit_does_not_matter():
    one, other = segment(scene()[0]), segment(scene(unit=1e-12)[0])
    assert np.mean(best(one) == best(other)) > 0.999


def test_masked_pixels_are_passed_over():
    image, radius, _ = scene()
    valid = np.ones(image.image.shape, bool)
    valid[0, 60:70, 90:110] = False
    spoiled = np.where(valid, image.image, 1e6)
    classes = best(segment(cutout(spoiled, 1.0, valid)))
    assert np.mean(classes[np.abs(radius - 1.2) < 0.1] == "source") > 0.8


@pytest.mark.skipif("LENSPIPE_DATA" not in os.environ, reason="needs real images: set LENSPIPE_DATA")
@pytest.mark.parametrize("name, theta_E", [("J0252+0039", 1.04), ("J1627-0053", 1.23), ("J0029-0055", 0.96)])
def test_real_rings_lie_at_their_published_radius(name, theta_E):
    from astropy.io import fits

    folder = Path(os.environ["LENSPIPE_DATA"]) / "slacs" / name
    image, sigma = (fits.getdata(folder / f"{kind}.fits.gz").astype(np.float32)[None] for kind in ("image", "noise"))
    classes = best(segment(cutout(image, np.where(sigma < 1e7, sigma, 1), sigma < 1e7)))
    y, x = (np.mgrid[:201, :201] - 100) * SCALE
    radius = np.hypot(x, y)[classes == "source"]
    assert len(radius) > 100
    assert np.median(radius) == pytest.approx(theta_E, abs=0.35)
