import torch

from lenspipe.nets.config import ISNetConfig, LossConfig
from lenspipe.nets.isnet import ISNet
from lenspipe.nets.losses import Loss

LOSS = Loss(LossConfig())


def batch():
    torch.manual_seed(0)
    return torch.randn(2, 1, 33, 33), torch.randint(0, 4, (2, 33, 33))


def test_size_is_that_of_the_paper():
    # 44.0 million (Qin et al. 2022, table 3, IS-Net): normalisation of groups has as many parameters as of batches.
    net = ISNet(ISNetConfig(intermediate=False), 3)
    assert 43.9e6 < sum(p.numel() for p in net.parameters()) < 44.2e6


def test_every_side_output_is_supervised():
    net = ISNet(ISNetConfig(width=16, intermediate=False), 1)
    net.total_loss(net.supervise(*batch(), LOSS)[1], LOSS).backward()
    assert len(net.side) == 6
    assert all(side.weight.grad.abs().sum() > 0 for side in net.side)


def test_features_are_drawn_to_those_of_the_truth_which_are_not_drawn_to_them():
    torch.manual_seed(0)
    net = ISNet(ISNetConfig(width=16), 1)
    image, label = batch()
    sums = net.supervise(image, label, LOSS)[1]
    squares = sums[-12:].reshape(6, 2)
    assert (squares[:, 0] > 0).all() and (squares[:, 1] > 1).all()
    squares[:, 0].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in net.truth_encoder.parameters())
    assert all(stage.first[0].weight.grad.any() for stage in net.encoder)
    # Its own outputs alone teach the encoder of masks.
    net.zero_grad()
    net.total_loss(net.supervise(image, label, LOSS)[1], LOSS).backward()
    assert all(p.grad.any() for p in net.truth_encoder.stem.parameters() if p.ndim > 1)
