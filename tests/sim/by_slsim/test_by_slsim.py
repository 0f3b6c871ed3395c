import sys

import h5py
import numpy as np
import pytest
from lenstronomy.SimulationAPI.sim_api import SimAPI

from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.sim import render
from lenspipe.sim.by_slsim import lens
from lenspipe.sim.by_slsim.galaxies import draw_galaxies
from lenspipe.sim.by_slsim.lens import Pair
from lenspipe.sim.distances import Cosmology, Distances
from lenspipe.sim.observe import observe
from lenspipe.sim.population import Population, draw
from lenspipe.sim.scene import FACTS
from lenspipe.sim.survey import Survey
from lenspipe.stages import simulate

SURVEY = Survey(bands=Survey().bands[1:])
SKY = {"lens_area": 1.0, "source_area": 0.01}


def population(**options):
    return parse(Population, {"slsim": {**SKY, **options}, "min_arc_snr": 10}, "population")


def galaxies(chosen=None, seed=1):
    return draw_galaxies(np.random.default_rng(seed), (chosen or population()).slsim, SURVEY)


@pytest.fixture(scope="module")
def sky():
    pytest.importorskip("slsim", reason="slsim is not installed (lenspipe[slsim])")
    return galaxies()


@pytest.fixture(scope="module")
def drawn(sky):
    return [draw(np.random.default_rng(seed), population(), SURVEY, True, sky) for seed in range(60)]


def test_without_slsim_the_extra_is_named(monkeypatch):
    for name in ("skypy", "skypy.galaxies.spectrum", "slsim", "slsim.Lenses.lens"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LenspipeError, match=r"needs slsim, .*: pip install 'lenspipe\[slsim\]'"):
        galaxies()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"slsim": {"z_source": [0.2, 5.0]}}, "z_source must end at 4"),
        ({"slsim": {"cuts": {"image_seperation": [1, 2]}}}, "did you mean 'image_separation'"),
        ({"slsim": {}, "physical": {}}, "from physical or from slsim"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(LenspipeError, match=sentence):
        parse(Population, options, "population")


def test_einstein_radii_follow_from_the_velocity_dispersion(drawn):
    for scene in drawn:
        facts = scene.facts
        distances = Distances.of(facts["z_lens"], facts["z_source"], Cosmology())
        assert scene.mass["theta_E"] == pytest.approx(distances.theta_E(facts["sigma_v"]), rel=1e-6)


def test_galaxies_are_such_as_lens(drawn):
    value = {name: np.array([scene.facts[name] for scene in drawn]) for name in drawn[0].facts}
    assert set(value) <= set(FACTS)
    assert (value["z_source"] > value["z_lens"]).all()
    assert 0.3 < np.median(value["z_lens"]) < 0.8 and 1.5 < np.median(value["z_source"]) < 3.2
    assert 180 < np.median(value["sigma_v"]) < 260
    assert 3 < np.median(value["lens_radius"]) < 12 and 1 < np.median(value["source_radius"]) < 5
    theta_E = np.array([scene.mass["theta_E"] for scene in drawn])
    assert (theta_E >= 0.5).all() and (theta_E <= 4).all()
    colour = np.array([[light.magnitude[0] - light.magnitude[1] for light in scene.lights[:2]] for scene in drawn])
    assert np.median(colour[:, 0]) > np.median(colour[:, 1]) + 0.3
    n_sersic = np.array([[light.n_sersic for light in scene.lights[:2]] for scene in drawn])
    assert (np.ptp(n_sersic, axis=0) > 1).all()


def test_images_are_those_of_slsims_lens_in_lenstronomy(sky):
    camera = {"psf_type": "GAUSSIAN", "truncation": 4, "read_noise": 1, "ccd_gain": 1, "sky_brightness": 22}
    camera |= {"pixel_scale": SURVEY.pixel_scale, "exposure_time": 1, "num_exposures": 1}
    camera |= {"magnitude_zero_point": SURVEY.zero_point}
    np.random.seed(3)
    rng = np.random.default_rng(3)
    pairs = [Pair.draw(rng, population().slsim, sky, (3.0, 4.0), SURVEY) for _ in range(30)]
    pairs = [pair for pair in pairs if pair.z_source > pair.z_lens]
    assert len(pairs) > 15
    for pair in pairs:
        layers = render.layers([pair.scene()], SURVEY.per_band("psf_fwhm")[None], SURVEY, 2)[0]
        for b, band in enumerate(SURVEY.bands):
            models, parts = pair.lensed.lenstronomy_kwargs(band.name)
            models = {name: models[name] for name in models if name != "point_source_model_list"}
            api = SimAPI(SURVEY.n_pixels, camera | {"seeing": band.psf_fwhm}, models)
            light, source, _ = api.magnitude2amplitude(parts["kwargs_lens_light"], parts["kwargs_source"])
            model = api.image_model_class({"supersampling_factor": 2, "supersampling_convolution": False})
            expected = model.image(parts["kwargs_lens"], source, light)
            assert layers[:, b].sum(0) == pytest.approx(expected, abs=2e-6 * expected.max())


def test_an_object_is_the_same_in_any_batch_and_numpy_is_left_alone(sky):
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    together = observe([5, 6, 7], [True, False, True], population(), SURVEY, 1, galaxies=sky)
    alone = observe([7], [True], population(), SURVEY, 1, galaxies=galaxies())
    assert alone.scenes[0].truth() == together.scenes[2].truth() != together.scenes[0].truth()
    assert np.array_equal(alone.image[0], together.image[2])
    assert np.array_equal(np.random.get_state()[1], state) and not hasattr(np, "trapz")


def test_cuts_that_keep_nothing_are_named_with_the_number(sky, monkeypatch):
    monkeypatch.setattr(lens, "_DRAWS", 400)

    def refused(**cuts):
        with pytest.raises(LenspipeError) as error:
            draw(np.random.default_rng(1), population(cuts=cuts), SURVEY, True, sky)
        return str(error.value)

    said = refused(theta_E=[50, 60])
    assert "none of 400 draws" in said and "widen cuts.theta_E within 50 to 60 arcsec or" in said
    assert "widen cuts.image_separation within 30 to 40" in refused(image_separation=[30, 40])


def test_a_sky_without_galaxies_names_the_cut(sky):
    with pytest.raises(LenspipeError, match=r"drew \d+ red galaxies .* 0 of them pass cuts.lens_magnitude 10"):
        galaxies(population(cuts={"lens_magnitude": 10}))
    with pytest.raises(LenspipeError, match=r"blue galaxies .* 0 of them pass cuts.source_magnitude 15"):
        galaxies(population(cuts={"source_magnitude": 15}))


def test_the_stage_writes_truth_with_units(sky, tmp_path):
    outputs = {"simulations": tmp_path / "simulations.fits", "layers": tmp_path / "layers.h5"}
    options = {"slsim": SKY, "min_arc_snr": 10}
    survey = {"preset": "euclid", "bands": ["VIS", "H"]}
    made = {"n_lenses": 2, "n_nonlenses": 1, "supersampling": 1, "survey": survey, "population": options}
    simulate.run(parse(simulate.SimulateConfig, made, "simulate"), {}, outputs, 4)
    with h5py.File(outputs["layers"]) as f:
        is_lens = f["kind"].asstr()[:] == "lens"
        for name, unit in {"sigma_v": "km / s", "theta_E": "arcsec", "source_radius": "kpc", "lens_M_r": "mag"}.items():
            assert f[f"truth/{name}"].attrs["unit"] == unit
            assert np.isfinite(f[f"truth/{name}"][:]).tolist() == is_lens.tolist()
