import numpy as np
import pytest

from lenspipe.errors import LenspipeError
from lenspipe.sim.observe import observe
from lenspipe.sim.population import KINDS, Population, draw
from lenspipe.sim.scene import LAYERS
from lenspipe.sim.survey import Survey

SURVEY = Survey()
POPULATION = Population()


def simulate(seeds, is_lens):
    return observe(seeds, is_lens, POPULATION, SURVEY, 1)


def test_same_object_in_any_batch():
    together = simulate([5, 6, 7], [True, False, True])
    alone = simulate([7], [True])
    assert alone.scenes[0].truth() == together.scenes[2].truth()
    assert np.array_equal(alone.image[0], together.image[2])
    assert not np.array_equal(together.image[0], together.image[2])


def test_noise_has_the_stated_variance():
    seeds = range(60)
    result = simulate(list(seeds), [i % 2 == 0 for i in seeds])
    model = result.layers.sum(1)
    variance = result.sky_rms[:, :, None, None] ** 2 + model / SURVEY.effective_gain()[:, None, None]
    pull = (result.image - model) / np.sqrt(variance)
    assert pull.mean() == pytest.approx(0, abs=0.01)
    assert pull.std((0, 2, 3)) == pytest.approx([1, 1, 1], abs=0.01)
    bright = model > 4 * result.sky_rms[:, :, None, None] ** 2 * SURVEY.effective_gain()[:, None, None]
    assert bright.sum() > 300
    assert pull[bright].std() == pytest.approx(1, abs=0.08)


def test_lenses_are_bright_magnified_and_inside_sensible_priors():
    result = simulate(list(range(100, 140)), [True] * 40)
    assert (result.magnification >= POPULATION.min_magnification).all()
    arcs = result.layers[:, LAYERS.index("source")] / result.sky_rms[:, :, None, None]
    assert (np.sqrt((arcs**2).sum((1, 2, 3))) >= POPULATION.min_arc_snr).all()
    truth = [scene.truth() for scene in result.scenes]
    value = {name: np.array([row[name] for row in truth]) for name in truth[0]}
    assert np.hypot(value["gamma1"], value["gamma2"]).max() < 0.1
    for prefix in ("", "source_", "lens_light_"):
        assert np.hypot(value[f"{prefix}e1"], value[f"{prefix}e2"]).max() < 0.45
    assert (value["theta_E"] >= 0.9).all() and (value["theta_E"] <= 2.5).all()
    mass, light = value["e1"] + 1j * value["e2"], value["lens_light_e1"] + 1j * value["lens_light_e2"]
    assert np.corrcoef(mass.real, light.real)[0, 1] > 0.8
    assert np.corrcoef(mass.imag, light.imag)[0, 1] > 0.8


def test_lens_is_red_and_source_is_blue():
    result = simulate(list(range(20)), [True] * 20)
    source, lens = (result.layers[:, LAYERS.index(name)].sum((2, 3)) for name in ("source", "lens"))
    assert (source[:, 0] / source[:, 2] > 2 * lens[:, 0] / lens[:, 2]).all()


def test_non_lenses_have_no_source_and_every_kind_comes_up():
    shares = dict.fromkeys(KINDS, 1.0)
    result = observe(range(90), [False] * 90, POPULATION.model_copy(update={"non_lens_weights": shares}), SURVEY, 1)
    assert not result.layers[:, LAYERS.index("source")].any()
    assert np.isnan(result.magnification).all()
    assert {scene.kind for scene in result.scenes} == set(KINDS)
    assert all(scene.truth() == {} for scene in result.scenes)


def test_field_objects_keep_clear_of_lenses():
    for seed in range(30):
        scene = draw(np.random.default_rng(seed), POPULATION, SURVEY, True)
        for light in scene.lights[2:]:
            assert np.hypot(light.x, light.y) >= max(POPULATION.isolation, scene.mass["theta_E"] + 0.8)


def test_impossible_cuts_are_refused():
    with pytest.raises(LenspipeError, match=r"200 lenses were drawn .* none passed min_magnification"):
        observe([1], [True], POPULATION.model_copy(update={"min_magnification": 1e6}), SURVEY, 1)


def test_arcs_can_be_asked_to_outshine_the_lens():
    chosen = POPULATION.model_copy(update={"min_arc_pixels": 60})
    made = observe(list(range(8)), [True] * 8, chosen, SURVEY, 1)
    weight = 1 / made.sky_rms**2
    source, lens, others = (np.einsum("nbhw,nb->nhw", made.layers[:, i], weight) for i in range(3))
    assert (((source > lens) & (source > others)).sum((1, 2)) >= 60).all()
    with pytest.raises(LenspipeError, match="min_arc_pixels 2000"):
        observe([1], [True], POPULATION.model_copy(update={"min_arc_pixels": 2000}), SURVEY, 1)
