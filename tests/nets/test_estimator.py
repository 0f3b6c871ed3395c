"""What every network is asked, of the one that answers with a Gaussian."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from lenspipe.errors import LenspipeError
from lenspipe.nets.config import EstimatorConfig
from lenspipe.nets.estimates import covariance_of, estimate, log_density
from lenspipe.nets.estimator import Estimator
from lenspipe.nets.turns import TURNS

NETS = {
    "b0": {"name": "efficientnet_b0", "masks": False},
    "b0_masks": {"name": "efficientnet_b0", "masks": True, "stem_stride": 1},
    "v2_same": {"name": "tf_efficientnetv2_b0", "masks": False, "scaling": "minmax"},
}


@pytest.fixture(params=NETS)
def config(request):
    return EstimatorConfig(window=24, **NETS[request.param])


@pytest.fixture
def net(config):
    return built(config)


def built(config, bands=2):
    torch.manual_seed(0)
    net = Estimator(config, bands)
    torch.nn.init.normal_(net.head.weight, std=0.02)  # as if it had learnt something
    return net


def batch(config, n=2, bands=2, size=(24, 24)):
    torch.manual_seed(1)
    masks = torch.rand(n, 4, *size).softmax(1) if config.masks else None
    return torch.randn(n, bands, *size) + 5, masks


@pytest.mark.parametrize("size", [(45, 45), (7, 5), (33, 50), (24, 23)])
def test_any_size(config, net, size):
    mean, factor = net.eval()(*batch(config, 1, size=size))
    assert mean.shape == (1, 7) and factor.shape == (1, 7, 7) and mean.isfinite().all()
    assert torch.equal(factor, factor.tril()) and (factor.diagonal(dim1=1, dim2=2) > 0).all()
    torch.linalg.cholesky(covariance_of(factor))


def test_only_the_middle_counts(config, net):
    image, masks = batch(config, size=(30, 34))
    other = image.clone()
    other[..., :3, :] += 100
    other[..., -5:] = torch.nan
    with torch.no_grad():
        for a, b in zip(net.eval()(image, masks), net(other, masks)):
            assert torch.equal(a, b)


@pytest.mark.parametrize("bands", [1, 5])
def test_any_number_of_bands(config, bands):
    assert built(config, bands).eval()(*batch(config, bands=bands))[0].isfinite().all()


@pytest.mark.parametrize("n", [1, 3])
def test_every_parameter_learns_also_from_a_batch_of_one(config, net, n):
    net.train()
    truth = torch.randn(n, 7)
    (-log_density(truth, *net(*batch(config, n, size=(37, 40)))).mean()).backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_untrained_it_answers_with_the_training_set():
    net = Estimator(EstimatorConfig(window=24, masks=False), 2)
    truth = torch.randn(4000, 7) * torch.tensor([2.0, 2.0, 0.3, 0.1, 0.1, 0.05, 0.05])
    truth[:, 2] += 1.5
    net.learn_units(truth)
    mean, factor = net.eval()(torch.randn(1, 2, 24, 24))
    assert mean[0].tolist() == pytest.approx([0, 0, 1.5, 0, 0, 0, 0], abs=0.02)
    sigma = covariance_of(factor)[0].diagonal().sqrt()
    assert sigma.tolist() == pytest.approx([2.0, 2.0, 0.3, 0.1, 0.1, 0.05, 0.05], rel=0.03)


def test_learns_from_the_image(config):
    net, truth = Estimator(config, 2), torch.zeros(8, 7)
    image, masks = batch(config, 8)
    image[:4, :, 8:16, 8:16] += 20
    truth[:4, 2] = 1
    optimiser, losses = torch.optim.AdamW(net.parameters(), 2e-3), []
    for _ in range(12):
        loss = -log_density(truth, *net(image, masks)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("unit", [1e-12, 1e5])
def test_flux_unit_does_not_matter(config, net, unit):
    image, masks = batch(config)
    with torch.no_grad():
        for a, b in zip(net.eval()(image, masks), net(unit * image, masks)):
            assert torch.allclose(a, b, atol=2e-3)


def test_missing_and_empty_pixels_spoil_nothing(config, net):
    image, masks = batch(config)
    image[0, 0, :3] = torch.nan
    image[1] = 0
    mean, covariance = estimate(net.eval(), image, masks, flips=True)
    assert np.isfinite(mean).all() and np.isfinite(covariance).all()


def test_turned_images_have_turned_estimates(config, net):
    image, masks = batch(config)
    mean, covariance = estimate(net.eval(), image, masks, flips=True)
    for turn in TURNS[1:]:
        matrix = turn.matrix()
        turned = estimate(net, turn.image(image), None if masks is None else turn.image(masks), flips=True)
        np.testing.assert_allclose(turned[0], mean @ matrix.T, atol=1e-4)
        np.testing.assert_allclose(turned[1], matrix @ covariance @ matrix.T, rtol=1e-3, atol=1e-4)


def test_weights_come_back_through_safetensors(config, net):
    image, masks = batch(config)
    net.learn_units(torch.randn(10, 7))
    again = Estimator(EstimatorConfig.model_validate(config.model_dump(mode="json")), 2)
    again.load_state_dict(load(save(net.state_dict())))
    with torch.no_grad():
        for a, b in zip(net.eval()(image, masks), again.eval()(image, masks)):
            assert torch.equal(a, b)


def test_exports(config, net):
    arguments = tuple(x for x in batch(config) if x is not None)
    with torch.no_grad():
        exported = torch.export.export(net.eval(), arguments).module()
        for a, b in zip(exported(*arguments), net(*arguments)):
            assert torch.allclose(a, b, atol=1e-4)


def test_other_names_are_refused():
    with pytest.raises(ValidationError, match="efficientnet"):
        EstimatorConfig(name="resnet18")
    with pytest.raises(LenspipeError, match="timm has no 'efficientnet_b99'"):
        Estimator(EstimatorConfig(name="efficientnet_b99", masks=False, window=24), 2)
