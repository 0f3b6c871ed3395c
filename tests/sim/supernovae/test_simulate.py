import numpy as np
import pytest
from lenstronomy.Cosmo.lens_cosmo import LensCosmo
from lenstronomy.LensModel.lens_model import LensModel
from pydantic import ValidationError

from lenspipe.errors import LenspipeError
from lenspipe.sim.learners import add_noise
from lenspipe.sim.supernovae.config import CLASSES, Monitoring, Systems
from lenspipe.sim.supernovae.simulate import aperture, one_step, simulate
from lenspipe.sim.survey import Band, Survey

BANDS = tuple(
    Band(name=n, wavelength=w, electron_zero_point=26.6, sky_brightness=s, psf_fwhm=0.9, psf_beta=3, exposure_s=600)
    for n, w, s in (("g", 481, 22.0), ("r", 642, 21.1), ("i", 781, 20.1))
)
SURVEY = Survey(name="ground", bands=BANDS, n_pixels=31)
MONITORING = Monitoring(steps=8, cadence=10)
OPTIONS = Systems(theta_E=(1.0, 2.0))


def made(numbers, classes=CLASSES, options=OPTIONS, monitoring=MONITORING, survey=SURVEY):
    ids = [f"L{n}" for n in numbers]
    return simulate(ids, [100 + n for n in numbers], list(numbers), classes, options, monitoring, survey, 1)


@pytest.fixture(scope="module")
def twelve():
    return made(range(12))


def test_shapes_and_balance(twelve):
    assert twelve.image.shape == (12, 3, 31, 31)
    assert twelve.series["flux"].shape == (12, 8, 3)
    assert np.bincount(twelve.label).tolist() == [3, 3, 3, 3]
    assert set(twelve.units) >= {*twelve.truth, *twelve.series, *twelve.members}


def test_truth_belongs_to_the_class(twelve):
    names = np.array(CLASSES)[twelve.label]
    assert (np.isfinite(twelve.truth["theta_E"]) == (names != "no_lens")).all()
    ia, cc = names == "lensed_sn_ia", names == "lensed_sn_cc"
    assert (twelve.truth["sn_template"][ia] == 0).all() and (twelve.truth["sn_template"][cc] > 0).all()
    assert np.isnan(twelve.truth["sn_template"][names == "lens"]).all()
    assert not twelve.series["supernova_flux"][names == "lens"].any()
    assert (twelve.truth["n_images"][ia | cc] >= 2).all()


def test_delays_and_magnifications_are_lenstronomys(twelve):
    compared = 0
    for row in np.flatnonzero(twelve.label >= 2):
        t = {name: float(values[row]) for name, values in twelve.truth.items()}
        kwargs = [
            {n: t[n] for n in ("theta_E", "gamma", "e1", "e2", "center_x", "center_y")},
            {n: t[n] for n in ("gamma1", "gamma2")},
        ]
        lens = LensModel(["EPL", "SHEAR"])
        here = twelve.members["row"] == row
        x, y, mu, delay = (twelve.members[n][here] for n in ("x", "y", "magnification", "delay"))
        beta = lens.ray_shooting(x, y, kwargs)
        assert beta[0] == pytest.approx(np.full(len(x), t["sn_x"]), abs=1e-8)
        assert beta[1] == pytest.approx(np.full(len(x), t["sn_y"]), abs=1e-8)
        sane = np.abs(mu) < 100
        assert mu[sane] == pytest.approx(lens.magnification(x, y, kwargs)[sane], rel=1e-6)
        fermat = lens.fermat_potential(x, y, kwargs, t["sn_x"], t["sn_y"])
        cosmos = LensCosmo(t["z_lens"], t["z_source"], cosmo=OPTIONS.cosmology.astropy())
        expected = cosmos.time_delay_units(fermat - fermat.min())
        assert delay == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert t["longest_delay"] == pytest.approx(delay.max())
        assert t["sn_magnification"] == pytest.approx(np.abs(mu).sum())
        compared += 1
    assert compared == 6


def test_light_curves_are_sums_of_late_and_magnified_copies(twelve):
    """Of a supernova whose image were a point in the aperture's middle, all its light would be in the sum."""
    from lenspipe.sim.supernovae.templates import TEMPLATES, Supernova

    row = int(np.flatnonzero(twelve.label == 2)[0])
    t = {name: float(values[row]) for name, values in twelve.truth.items()}
    modulus = OPTIONS.cosmology.astropy().distmod(t["z_source"]).value
    template = TEMPLATES[int(t["sn_template"])]
    supernova = Supernova(
        template, t["z_source"], modulus, t["sn_absolute_magnitude"], t["sn_stretch"], t["sn_reddening"]
    )
    here = twelve.members["row"] == row
    total = np.zeros((8, 3))
    for mu, delay in zip(twelve.members["magnification"][here], twelve.members["delay"][here]):
        for b, band in enumerate(BANDS):
            days = twelve.series["time"][row, :, b] - t["sn_peak"] - delay
            total[:, b] += abs(mu) * SURVEY.flux(supernova.magnitude(days, band.wavelength))
    found = twelve.series["supernova_flux"][row]
    bright = total > 0.2 * total.max()
    ratio = found[bright] / total[bright]
    assert ((ratio > 0.6) & (ratio < 1.01)).all()  # the aperture loses the wings of the PSF


def test_light_curves_have_the_stated_noise():
    plain = made(range(0, 160, 4), classes=("lens",) * 1)
    pull = plain.series["flux"] / plain.series["flux_sigma"]
    assert pull.mean() == pytest.approx(0, abs=0.1)
    assert pull.var() == pytest.approx(1, abs=0.12)


def test_noise_of_the_mean_image_is_that_of_all_steps():
    survey = one_step(SURVEY, MONITORING)
    rms = np.broadcast_to(survey.sky_rms(), (8, 3))
    gain = np.broadcast_to(survey.effective_gain(), (8, 3))
    blank = add_noise(np.random.default_rng(1), np.zeros((8, 3, 200, 200)), rms, gain).mean(0)
    assert blank.std((1, 2)) == pytest.approx(survey.sky_rms() / np.sqrt(8), rel=0.02)


def test_an_object_is_the_same_in_any_batch(twelve):
    some = made([7, 4])
    for row, number in enumerate((7, 4)):
        top = float(twelve.image[number].max())
        assert some.image[row] == pytest.approx(twelve.image[number], rel=1e-4, abs=1e-4 * top)
        assert some.series["flux"][row] == pytest.approx(twelve.series["flux"][number], rel=1e-3, abs=1e-3 * top)


def test_some_galaxies_without_a_lens_have_a_supernova_and_some_companions():
    found = made(range(24), classes=("no_lens",))
    assert 2 <= np.isfinite(found.truth["sn_template"]).sum() <= 16
    assert 6 <= np.isfinite(found.truth["source_magnitude_r"]).sum() <= 22
    assert np.isnan(found.truth["z_source"]).all()
    assert (found.truth["n_images"][np.isfinite(found.truth["n_images"])] == 1).all()


def test_exposures_of_a_step_deepen_it():
    once, thrice = (one_step(SURVEY, Monitoring(exposures={"g": n})) for n in (1, 3))
    assert once.sky_rms()[0] == pytest.approx(np.sqrt(3) * thrice.sky_rms()[0])
    assert once.sky_rms()[1] == thrice.sky_rms()[1]


def test_aperture_is_round_and_central():
    inside = aperture(SURVEY, 2.0)
    assert inside.sum() * SURVEY.pixel_scale**2 == pytest.approx(np.pi * 4, rel=0.05)
    assert (inside == inside[::-1, ::-1]).all()


def test_cuts_that_keep_nothing_say_which(monkeypatch):
    monkeypatch.setattr("lenspipe.sim.supernovae.simulate._ATTEMPTS", 5)
    with pytest.raises(LenspipeError, match=r"draws of lensed_sn_ia passed the cuts; \d failed min_images"):
        made([0], classes=("lensed_sn_ia",), options=OPTIONS.model_copy(update={"min_images": 9}))
    with pytest.raises(LenspipeError, match="min_detections"):
        made([0], classes=("lensed_sn_cc",), options=OPTIONS.model_copy(update={"min_detections": 999}))


@pytest.mark.parametrize("options", [{"z_source": (-1.0, 1.0)}, {"companions": 2}, {"min_images": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError):
        Systems(**options)
