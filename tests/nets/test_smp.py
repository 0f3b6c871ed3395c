import pytest
import torch

from lenspipe.errors import LenspipeError
from lenspipe.nets.config import SmpUNetConfig
from lenspipe.nets.smp import SmpUNet

NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4}
SMALL = SmpUNetConfig(encoder_options=NARROW, depth=3, decoder_channels=(8, 8, 8))


def test_skip_at_full_resolution():
    shapes = [tuple(f.shape[-2:]) for f in SmpUNet(SMALL, 3).net.encoder(torch.zeros(1, 3, 48, 48))]
    assert shapes == [(48, 48), (48, 48), (24, 24), (12, 12)]
    coarse = SmpUNet(SMALL.model_copy(update={"full_resolution": False}), 3)
    assert coarse.net.encoder(torch.zeros(1, 3, 48, 48))[1].shape[-2:] == (24, 24)


@pytest.mark.parametrize("encoder, options", [("resnet18", {}), ("tu-resnet18", NARROW)])
def test_an_encoder_starts_from_weights_of_three_bands(encoder, options):
    config = SMALL.model_copy(update={"encoder": encoder, "encoder_options": options})
    theirs = SmpUNet(config, 3).net.encoder.state_dict()
    # As the packages that publish them name them, with the head of a classifier.
    weights = {name.removeprefix("model."): value for name, value in theirs.items()} | {"fc.weight": torch.ones(9, 9)}
    net = SmpUNet(config, 5)
    net.load_encoder(weights)
    mine = net.net.encoder.state_dict()
    first = next(name for name, value in theirs.items() if value.ndim == 4)
    for band in range(5):
        assert torch.allclose(mine[first][:, band], theirs[first][:, band % 3] * 3 / 5)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs if name != first)


def test_weights_of_another_encoder_are_refused():
    net = SmpUNet(SMALL, 3)
    with pytest.raises(LenspipeError, match="there is none"):
        net.load_encoder({"something": torch.ones(1)})
    with pytest.raises(LenspipeError, match="should be"):
        net.load_encoder({name: value[:1] for name, value in net.net.encoder.state_dict().items() if value.ndim})
