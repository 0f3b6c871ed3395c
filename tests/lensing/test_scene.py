"""Names and columns of a scene; pixel coordinates."""

import pytest
import torch

from lenspipe.infer.priors import Prior, Priors, default
from lenspipe.lensing.grid import axes
from lenspipe.lensing.params import without_band
from lenspipe.lensing.scene import build


def test_names():
    scene = build(["SIE", "SHEAR", "SIE"], ["SERSIC_ELLIPSE"] * 2, ["SERSIC_ELLIPSE"] * 2, sky=True)
    assert scene.names[:7] == ("theta_E", "e1", "e2", "center_x", "center_y", "gamma1", "gamma2")
    assert {"lens2_theta_E", "source_R_sersic", "source1_center_y", "lens_light_e1", "lens_light1_center_x"} <= set(
        scene.names
    )
    # The first lens light sits where the mass does.
    assert "lens_light_center_x" not in scene.names
    assert scene.lens_light[0].columns[-2:] == scene.lens[0].columns[-2:]
    assert scene.amplitudes == ("source", "source1", "lens_light", "lens_light1", "sky")
    assert dict(zip(scene.names, scene.units))["source_R_sersic"] == "arcsec"
    apart = build(["SIE"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"], joint_centre=False)
    assert "lens_light_center_x" in apart.names


def test_pixel_centres_are_symmetric_and_supersampling_averages_to_them():
    x, y = axes(4, 5, 0.5)
    assert x.shape == (1, 5)
    assert y.shape == (4, 1)
    assert x.squeeze().tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    fine, _ = axes(4, 5, 0.5, supersampling=3)
    torch.testing.assert_close(fine.reshape(5, 3).mean(1), x.squeeze())


def test_a_satellite_and_a_sheet_have_names_of_their_own():
    scene = build(["EPL", "SHEAR", "SIE", "CONVERGENCE"], ["SERSIC"], ["SERSIC_ELLIPSE"], joint_centre=False)
    assert {"theta_E", "gamma", "gamma1", "kappa", "lens2_theta_E", "lens2_e1", "lens2_center_x"} <= set(scene.names)
    assert len(set(scene.names)) == len(scene.names)
    assert default("lens2_theta_E") == default("theta_E")
    declared = {"lens2_center_x": Prior(kind="normal", centre=1.8, sigma=0.1, lower=1.4, upper=2.2)}
    assert Priors(scene.names, declared).priors[scene.index("lens2_center_x")] == declared["lens2_center_x"]


def test_shapes_free_in_each_band():
    scene = build(["SIE"], ["SERSIC"], ["SERSIC_ELLIPSE"], free=["lens_light"], bands=("g", "r"))
    assert {"lens_light_R_sersic_g", "lens_light_R_sersic_r", "lens_light_e2_r", "source_R_sersic"} <= set(scene.names)
    assert scene.bands == ("g", "r")
    (light,) = scene.lens_light
    assert [scene.names[i] for i in light.in_band(1)[:2]] == ["lens_light_R_sersic_r", "lens_light_n_sersic_r"]
    assert light.in_band(0)[-2:] == light.in_band(1)[-2:] == scene.lens[0].columns[-2:]
    assert dict(zip(scene.names, scene.units))["lens_light_R_sersic_g"] == "arcsec"
    # With one band there is nothing to differ.
    assert build(["SIE"], ["SERSIC"], ["SERSIC"], free=["lens_light"], bands=("g",)).bands == ()


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("lens_light_R_sersic_g", "lens_light_R_sersic"),
        ("source1_e1_F814W", "source1_e1"),
        ("source_sigma_band_1", "source_sigma"),
        ("gamma1", "gamma1"),
        ("lens2_center_x", "lens2_center_x"),
    ],
)
def test_names_without_their_band(name, short):
    assert without_band(name) == short
