import pytest
import torch
from pydantic import ValidationError

from lenspipe.nets.config import UNetConfig
from lenspipe.nets.predict import predict
from lenspipe.nets.unet import UNet

SMALL = UNetConfig(
    encoder_options={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4},
    depth=3,
    decoder_channels=(8, 8, 8),
)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return UNet(SMALL, 3).eval()


@pytest.mark.parametrize("shape", [(45, 45), (64, 64), (7, 5), (33, 50)])
@pytest.mark.parametrize("upsample", [1, 2])
def test_any_size_in_same_size_out(shape, upsample):
    net = UNet(SMALL.model_copy(update={"upsample": upsample}), 2).eval()
    assert net(torch.randn(2, 2, *shape)).shape == (2, 4, *shape)


def test_skip_at_full_resolution(net):
    shapes = [tuple(f.shape[-2:]) for f in net.net.encoder(torch.zeros(1, 3, 48, 48))]
    assert shapes == [(48, 48), (48, 48), (24, 24), (12, 12)]
    coarse = UNet(SMALL.model_copy(update={"full_resolution": False}), 3)
    assert coarse.net.encoder(torch.zeros(1, 3, 48, 48))[1].shape[-2:] == (24, 24)


def test_every_parameter_is_used(net):
    net.train()
    net(torch.randn(2, 3, 45, 45)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_output_does_not_depend_on_the_padding_side_of_a_multiple(net):
    image = torch.randn(1, 3, 48, 48)
    # 45 pixels are padded to 48 by reflection: far from the padding nothing changes but the normalisation's sky.
    whole, cut = net(image).softmax(1), net(image[..., :45, :45]).softmax(1)
    assert torch.allclose(whole[..., :20, :20], cut[..., :20, :20], atol=0.05)


def test_levels_need_channels():
    with pytest.raises(ValidationError, match="one number for each of the 4 levels"):
        UNetConfig(depth=4, decoder_channels=(8, 8))


def test_predict_gives_probabilities_that_turn_with_the_image(net):
    image = torch.randn(2, 3, 32, 32)
    plain, averaged = predict(net, image, flips=False), predict(net, image, flips=True)
    for result in (plain, averaged):
        assert torch.allclose(result.sum(1), torch.ones(2, 32, 32), atol=1e-5)
    turned = predict(net, image.rot90(1, (-2, -1)), flips=True)
    assert torch.allclose(turned.rot90(-1, (-2, -1)), averaged, atol=1e-5)
    assert not torch.allclose(predict(net, image.rot90(1, (-2, -1)), flips=False).rot90(-1, (-2, -1)), plain, atol=1e-5)
