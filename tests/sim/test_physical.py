import math

import numpy as np
import pytest
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.LensModel.lens_model import LensModel

from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.sim.observe import observe
from lenspipe.sim.physical import early_type
from lenspipe.sim.population import Population, draw
from lenspipe.sim.scene import FACTS
from lenspipe.sim.survey import Survey

SURVEY = Survey()


def population(**options):
    return parse(Population, {"physical": options}, "population")


def scenes(n=40, **options):
    chosen = population(**options)
    return [draw(np.random.default_rng(seed), chosen, SURVEY, True) for seed in range(n)]


@pytest.fixture(scope="module")
def drawn():
    return scenes(150)


def test_einstein_radii_follow_from_the_velocity_dispersion(drawn):
    cosmos = FlatLambdaCDM(H0=70, Om0=0.3)
    for scene in drawn[:30]:
        near, far = scene.facts["z_lens"], scene.facts["z_source"]
        ratio = cosmos.angular_diameter_distance(near, far) / cosmos.angular_diameter_distance(far)
        speed = scene.facts["sigma_v"] * units.km / units.s / constants.c
        expected = (4 * math.pi * speed**2 * ratio).to_value("") * units.rad.to("arcsec")
        assert scene.mass["theta_E"] == pytest.approx(expected, rel=1e-6)


def test_galaxies_are_such_as_lens(drawn):
    value = {name: np.array([s.facts[name] for s in drawn]) for name in ("z_lens", "z_source", "sigma_v")}
    assert (value["z_source"] > value["z_lens"]).all()
    assert 0.3 < np.median(value["z_lens"]) < 0.8 and 1.0 < np.median(value["z_source"]) < 2.5
    assert 200 < np.median(value["sigma_v"]) < 300
    theta_E = np.array([s.mass["theta_E"] for s in drawn])
    assert (theta_E >= 0.5).all() and (theta_E <= 4.0).all() and 0.7 < np.median(theta_E) < 1.6
    i_band = np.array([s.lights[0].magnitude[2] for s in drawn])
    assert i_band.max() < 22.5 and 18 < np.median(i_band) < 21
    colour = np.array([s.lights[0].magnitude[0] - s.lights[0].magnitude[1] for s in drawn])
    source = np.array([s.lights[1].magnitude[0] - s.lights[1].magnitude[1] for s in drawn])
    assert np.median(colour) > np.median(source) + 0.8
    assert set(drawn[0].facts) <= set(FACTS)


def test_early_types_lie_on_the_relations():
    M, radius = early_type(10**2.203, 0.0, 0.0)
    assert pytest.approx(-21.15) == M
    brightness = M + 2.5 * math.log10(2 * math.pi * radius**2) + 36.57
    assert math.log10(radius) == pytest.approx(1.49 * 2.203 + 0.3 * brightness - 8.78)
    assert early_type(250, 0, 0)[1] > early_type(200, 0, 0)[1]


def test_rays_through_two_planes_are_those_of_lenstronomy():
    import torch

    from lenspipe.lensing import grid
    from lenspipe.sim.render import _planes, _ray_shoot

    two = [s for s in scenes(12, second_plane=1.0) if s.behind]
    assert len(two) > 8
    for scene in two[:4]:
        first, z = scene.behind["scale"], scene.facts
        names = ("theta_E", "e1", "e2", "center_x", "center_y")
        main = {name: scene.mass[name] for name in names} | {"theta_E": first * scene.mass["theta_E"]}
        shear = {name: first * scene.mass[name] for name in ("gamma1", "gamma2")}
        behind = {name: scene.behind[name] for name in names}
        model = LensModel(
            ["SIE", "SHEAR", "SIE"],
            z_source=z["z_source2"],
            lens_redshift_list=[z["z_lens"], z["z_lens"], z["z_source"]],
            multi_plane=True,
            cosmo=FlatLambdaCDM(H0=70, Om0=0.3),
        )
        x, y = grid.axes(17, 17, 0.31)
        grid_x, grid_y = (a.numpy() for a in torch.broadcast_tensors(x, y))
        expected = model.ray_shooting(grid_x.ravel(), grid_y.ravel(), [main, shear, behind])
        planes = torch.tensor(_planes(scene), dtype=torch.float64)
        ours = _ray_shoot(x, y, planes)[1].numpy()
        assert ours.reshape(2, -1) == pytest.approx(np.array(expected), abs=1e-6)


def test_the_second_source_is_seen_and_lensed():
    made = observe([3, 4], [True, True], population(second_plane=1.0), SURVEY, 1)
    assert all(max(item.plane for item in scene.lights) == 2 for scene in made.scenes)
    assert (made.magnification >= 3).all()


def test_more_sources_are_drawn():
    counts = [s.facts["n_sources"] for s in scenes(30, more_sources=2.0)]
    assert max(counts) > 2 and [s for s in scenes(5, more_sources=0.0) if s.facts["n_sources"] != 1] == []


def test_cuts_that_keep_nothing_name_the_cut_and_the_number():
    with pytest.raises(LenspipeError, match=r"of 20000 pairs .* none was kept; the cut on lens_magnitude"):
        scenes(1, cuts={"lens_magnitude": 5.0})


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"z_lens": [-0.1, 1]}, "z_lens must be two numbers"),
        ({"z_source": [2, 1]}, "z_source must be two numbers"),
        ({"z_lens": [1, 2], "z_source": [0.2, 0.9]}, "no source would be behind a lens"),
        ({"cuts": {"theta": [1, 2]}}, "did you mean 'theta_E'"),
    ],
)
def test_impossible_populations_are_refused(options, sentence):
    with pytest.raises(LenspipeError, match=sentence):
        population(**options)
