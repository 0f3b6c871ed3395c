import torch

from lenspipe.nets.config import UNetConfig
from lenspipe.nets.honesty import assess
from lenspipe.nets.predict import describe
from lenspipe.nets.unet import UNet


def test_assesses_a_network_on_its_own_validation_objects():
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=(8, 8)), 2)
    batches = [(torch.randn(30, 2, 16, 16), torch.randint(0, 4, (30, 16, 16))) for _ in range(4)]
    found = assess(net, batches[:2], batches[2:])
    assert not net.training
    # Labels drawn at random: whatever is said is said too surely.
    assert set(found.figures()) == {"temperature", "temperature_flips"}
    assert all(value > 2 for value in found.figures().values())
    assert len(found.familiarity.distances) == 60
    stripes = 20 * (torch.arange(16) % 2).expand(3, 2, 16, 16) + torch.randn(3, 2, 16, 16)
    assert found.familiarity.p_value(describe(net, stripes)).max() < 0.05
