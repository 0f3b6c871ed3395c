import numpy as np
import pytest

from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.sim import nonlens, render
from lenspipe.sim.population import Population, draw
from lenspipe.sim.scene import LAYERS, Scene
from lenspipe.sim.survey import Survey

SURVEY = Survey()
FWHM = np.array([[1.25, 0.9, 0.8]])
OLD, YOUNG = np.array([21.0, 19.5, 19.0]), np.array([20.5, 20.3, 20.2])


def lens_layer(lights):
    return render.layers([Scene("x", lights)], FWHM, SURVEY, 2)[0, LAYERS.index("lens")].astype(float)


@pytest.mark.parametrize("make", [nonlens.ring, nonlens.merger, nonlens.edge_on])
def test_flux_is_that_of_the_lights(make):
    lights = make(np.random.default_rng(1), OLD, YOUNG, 0.0, 0.0)
    assert all(item.layer == "lens" and item.plane == 0 for item in lights)
    expected = sum(SURVEY.flux(item.magnitude) for item in lights)
    assert lens_layer(lights).sum((1, 2)) == pytest.approx(expected, rel=0.15)


def test_a_ring_is_blue_about_a_red_middle():
    bulge, *knots = nonlens.ring(np.random.default_rng(2), OLD, YOUNG, 0.0, 0.0)
    flux = [lens_layer((bulge,))[b].max() / lens_layer(tuple(knots))[b].max() for b in (0, 2)]
    assert flux[0] < flux[1]
    distance = np.hypot([k.x for k in knots], [k.y for k in knots])
    assert distance.min() > 0.4 and distance.max() < 2.3


def test_a_disc_from_the_side_is_flat():
    disc, _ = nonlens.edge_on(np.random.default_rng(3), OLD, YOUNG, 0.0, 0.0)
    modulus = np.hypot(disc.e1, disc.e2)
    assert 0.1 <= (1 - modulus) / (1 + modulus) <= 0.25


def test_artefacts_are_in_the_layer_of_others_and_not_blurred():
    population = parse(Population, {"non_lens_weights": {"artefact": 1}, "galaxies": 0, "stars": 0}, "population")
    scenes = [draw(np.random.default_rng(i), population, SURVEY, False) for i in range(12)]
    assert {scene.kind for scene in scenes} == {"artefact"} and all(scene.streaks for scene in scenes)
    layers = render.layers(scenes, np.tile(FWHM, (12, 1)), SURVEY, 1)
    others = layers[:, LAYERS.index("others")]
    assert (others.max((1, 2, 3)) > 2 * SURVEY.sky_rms().min()).all()
    single = [i for i, scene in enumerate(scenes) if all(streak.band is not None for streak in scene.streaks)]
    assert any((others[i].max((1, 2)) == 0).any() for i in single)


def test_a_strange_kind_is_refused():
    with pytest.raises(LenspipeError, match="did you mean 'ring'"):
        parse(Population, {"non_lens_weights": {"rings": 1}}, "population")
    with pytest.raises(LenspipeError, match="one at least above 0"):
        parse(Population, {"non_lens_weights": {"ring": 0}}, "population")
