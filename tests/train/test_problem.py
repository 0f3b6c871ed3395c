import pytest
import torch

from lenspipe.nets.config import EstimatorConfig
from lenspipe.nets.estimates import log_density
from lenspipe.nets.estimator import Estimator
from lenspipe.train.problem import Estimation


def estimation(masks=None):
    torch.manual_seed(0)
    net = Estimator(EstimatorConfig(masks=masks is not None, window=16), 1).eval()
    torch.nn.init.normal_(net.head.weight, std=0.02)
    return Estimation(net, masks)


def batch(n=4):
    torch.manual_seed(1)
    return torch.randn(n, 1, 16, 16), torch.randn(n, 7)


def test_the_loss_of_two_halves_is_that_of_the_whole():
    problem, (image, truth) = estimation(), batch()
    with torch.no_grad():
        whole = problem.loss(problem((image, truth)))
        halves = problem((image[:1], truth[:1])) + problem((image[1:], truth[1:]))
        assert problem.loss(halves).item() == pytest.approx(whole.item(), rel=1e-5)
        assert whole.item() == pytest.approx(-log_density(truth, *problem.net(image)).mean().item(), rel=1e-5)
        problem.measure((image, truth))
    figures = problem.figures()
    assert figures[problem.monitor] == pytest.approx(-whole.item(), rel=1e-5)
    assert {"coverage68_theta_E", "coverage95_shear", "rms_center"} <= set(figures)


def test_masks_are_made_of_the_images_and_never_trained():
    segmenter, seen = torch.nn.Conv2d(1, 4, 1), []

    def masks(image):
        seen.append(image)
        with torch.inference_mode():
            return segmenter(image).softmax(1)

    problem, (image, truth) = estimation(lambda image: masks(image).clone()), batch()
    problem.loss(problem((image, truth))).backward()
    assert torch.equal(seen[0], image)
    assert segmenter.weight.grad is None and problem.net.body.conv_stem.weight.grad.isfinite().all()
    assert all(name.startswith("net.") for name in problem.state_dict())
