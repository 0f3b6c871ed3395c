import numpy as np
import pytest
import torch

from lenspipe.lensing.light import sersic_ellipse
from lenspipe.nets.turns import TURNS
from lenspipe.types import DEFLECTOR

PARAMETERS = np.array([0.7, -0.4, 0.1, 0.25, -0.15, 0.06, 0.09])


def seen(parameters):
    """(2, H, W): an elliptical galaxy at the centre with the deflector's shape, and the potential of the shear."""
    x_0, y_0, _, e1, e2, gamma1, gamma2 = parameters
    axis = np.linspace(-3, 3, 25)
    x, y = axis[None], axis[:, None]
    shape = [torch.tensor(float(v)) for v in (1.0, 1.5, e1, e2, x_0, y_0)]
    light = sersic_ellipse(torch.as_tensor(x), torch.as_tensor(y), *shape).numpy()
    return np.stack([light, gamma1 * (x**2 - y**2) / 2 + gamma2 * x * y])


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_a_turned_image_shows_the_turned_deflector(turn):
    image = seen(PARAMETERS)
    expected = seen(turn.matrix() @ PARAMETERS)
    np.testing.assert_allclose(turn.image(image), expected, atol=1e-12)
    assert torch.equal(turn.image(torch.as_tensor(image)), torch.as_tensor(turn.image(image).copy()))
    assert (turn.matrix() @ PARAMETERS)[DEFLECTOR.index("theta_E")] == PARAMETERS[DEFLECTOR.index("theta_E")]
    np.testing.assert_array_equal(turn.matrix() @ turn.matrix().T, np.eye(7))


def test_there_are_eight():
    assert len({tuple((turn.matrix() @ PARAMETERS).round(9)) for turn in TURNS}) == 8
