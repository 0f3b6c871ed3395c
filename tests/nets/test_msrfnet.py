import torch

from lenspipe.nets.config import LossConfig, MSRFNetConfig
from lenspipe.nets.losses import Loss
from lenspipe.nets.msrfnet import DualScaleFusion, MSRFNet, edges, gradient


def test_neighbouring_scales_read_each_other():
    torch.manual_seed(0)
    block = DualScaleFusion(8, 16, 8)
    high, low = torch.randn(1, 8, 12, 12, requires_grad=True), torch.randn(1, 16, 6, 6, requires_grad=True)
    new_high, new_low = block(high, low)
    assert new_high.shape == high.shape and new_low.shape == low.shape
    (of_low,) = torch.autograd.grad(new_high.square().sum(), low, retain_graph=True)
    (of_high,) = torch.autograd.grad(new_low.square().sum(), high)
    assert of_low.any() and of_high.any()


def test_edges_lie_on_both_sides_of_a_border():
    label = torch.full((1, 5, 6), 3)
    label[:, :, 3:] = 1
    expected = torch.zeros(5, 6)
    expected[:, 2:4] = 1
    assert torch.equal(edges(label)[0], expected)
    assert not edges(torch.full((1, 4, 4), 2)).any()


def test_gradient_of_a_slope():
    x = 3.0 * torch.arange(8.0).repeat(8, 1) + 4.0 * torch.arange(8.0)[:, None]
    assert torch.allclose(gradient(x[None, None])[0, 0, 2:6, 2:6], torch.tensor(5.0))


def test_outputs_and_edges_are_all_supervised():
    torch.manual_seed(0)
    net = MSRFNet(MSRFNetConfig(channels=(8, 8, 16, 16), growth=(8, 8, 8)), 1)
    loss = Loss(LossConfig())
    image, label = torch.randn(2, 1, 24, 24), torch.randint(0, 4, (2, 24, 24))
    net.total_loss(net.supervise(image, label, loss)[1], loss).backward()
    assert all(head.weight.grad.any() for head in net.head)
    assert net.shape.edge.weight.grad.any()
