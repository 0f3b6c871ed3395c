import numpy as np
import pytest
from pydantic import ValidationError

from lenspipe.errors import LenspipeError
from lenspipe.sim.distances import Distances
from lenspipe.sim.learners import add_noise
from lenspipe.sim.substructure.config import CLASSES, Lenses, Subhaloes
from lenspipe.sim.substructure.simulate import simulate
from lenspipe.sim.survey import Band, Survey

BAND = Band(name="VIS", wavelength=700, electron_zero_point=25.7, sky_brightness=22.3, psf_fwhm=0.16, exposure_s=2000)
SURVEY = Survey(name="space", bands=(BAND,), pixel_scale=0.1, n_pixels=48)
OPTIONS = Lenses(subhaloes=Subhaloes(mass=(1e8, 1e10)))


def made(numbers, classes=CLASSES, options=OPTIONS, survey=SURVEY):
    ids = [f"L{n}" for n in numbers]
    return simulate(ids, [1000 + n for n in numbers], list(numbers), classes, options, survey, 1)


@pytest.fixture(scope="module")
def twelve():
    return made(range(12))


def test_classes_are_balanced_and_have_their_truth(twelve):
    assert np.bincount(twelve.label).tolist() == [4, 4, 4]
    names = np.array(CLASSES)[twelve.label]
    assert (np.isfinite(twelve.truth["subhalo_mass"]) == (names == "cdm")).all()
    assert (np.isfinite(twelve.truth["axion_mass"]) == (names == "vortex")).all()
    rows, counts = np.unique(twelve.members["row"], return_counts=True)
    assert (names[rows.astype(int)] == "cdm").all()
    assert counts.tolist() == twelve.truth["n_subhaloes"][rows.astype(int)].tolist()
    assert set(twelve.units) >= set(twelve.truth)


def test_every_macro_parameter_is_drawn_anew(twelve):
    for name, values in twelve.truth.items():
        known = values[np.isfinite(values)]
        assert len(np.unique(known)) > len(known) // 2, name


def test_einstein_radii_are_those_of_angular_diameter_distances(twelve):
    for row in range(12):
        z_lens, z_source, sigma_v, theta_E = (
            float(twelve.truth[name][row]) for name in ("z_lens", "z_source", "sigma_v", "theta_E")
        )
        assert theta_E == pytest.approx(Distances.of(z_lens, z_source, OPTIONS.cosmology).theta_E(sigma_v), rel=1e-9)


def test_an_object_is_the_same_in_any_batch(twelve):
    some = made([7, 4])
    for row, number in enumerate((7, 4)):
        assert some.image[row] == pytest.approx(
            twelve.image[number], rel=1e-4, abs=1e-4 * float(twelve.image[number].max())
        )
        assert some.truth["theta_E"][row] == twelve.truth["theta_E"][number]
        assert some.label[row] == twelve.label[number]


def test_noise_is_there_once():
    dark = OPTIONS.model_copy(update={"source_magnitude": (40.0, 40.1), "min_arc_snr": 0.0, "lens_light": False})
    found = made(range(0, 60, 3), classes=("no", "cdm", "vortex"), options=dark)
    pull = found.image[:, 0] / found.truth["sky_rms"][:, None, None]
    assert pull.mean() == pytest.approx(0, abs=0.02)
    assert pull.var() == pytest.approx(1, abs=0.02)


def test_bright_pixels_have_the_noise_of_their_photons():
    model = np.geomspace(0.01, 1e3, 48 * 48).reshape(1, 48, 48)
    gain, sky = SURVEY.effective_gain(), SURVEY.sky_rms()
    sigma = np.sqrt(sky[:, None, None] ** 2 + model / gain[:, None, None])
    pulls = np.array([(add_noise(np.random.default_rng(k), model, sky, gain) - model) / sigma for k in range(40)])
    assert pulls[:, :, :24].var() == pytest.approx(1, abs=0.02)
    assert pulls[:, :, 24:].var() == pytest.approx(1, abs=0.02)


def test_substructure_alone_tells_the_classes_apart():
    """The same seed in two classes is the same lens: no cut and no draw of the lens depends on the class."""
    plain, with_haloes = (simulate(["a"], [5], [0], (kind,), OPTIONS, SURVEY, 1) for kind in ("no", "cdm"))
    for name in ("theta_E", "source_magnitude", "arc_snr", "psf_fwhm"):
        assert plain.truth[name] == with_haloes.truth[name]


@pytest.mark.parametrize(
    "options", [{"z_lens": (-0.1, 0.5)}, {"z_source": (0.1, 0.2)}, {"theta_E": (2.0, 1.0)}, {"shears": 1}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError):
        Lenses(**options)


def test_cuts_that_keep_nothing_say_which():
    with pytest.raises(LenspipeError, match=r"theta_E within 8.0 to 9.0 arcsec"):
        made([0], options=OPTIONS.model_copy(update={"theta_E": (8.0, 9.0)}))
    with pytest.raises(LenspipeError, match="min_arc_snr"):
        made([0], options=OPTIONS.model_copy(update={"min_arc_snr": 1e9}))


def test_several_bands_are_refused():
    two = SURVEY.model_copy(update={"bands": (BAND, BAND.model_copy(update={"name": "Y"}))})
    with pytest.raises(LenspipeError, match="one band"):
        made([0], survey=two)
