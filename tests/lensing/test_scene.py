"""Names and columns of a scene; shapes; finite gradients where the formulae are singular."""

import torch

from lenspipe.lensing import mass
from lenspipe.lensing.grid import axes
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


def test_a_round_lens_has_a_finite_gradient():
    theta_E = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    e1, e2 = (torch.tensor(0.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    zero = torch.tensor(0.0, dtype=torch.float64)
    x, y = axes(4, 4, 0.5)
    alpha_x, alpha_y = mass.sie(x, y, theta_E, e1, e2, zero, zero)
    (alpha_x.square() + alpha_y.square()).sum().backward()
    for parameter in (theta_E, e1, e2):
        assert torch.isfinite(parameter.grad)
