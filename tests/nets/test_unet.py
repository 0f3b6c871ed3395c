import torch

from lenspipe.nets.config import UNetConfig
from lenspipe.nets.predict import predict
from lenspipe.nets.unet import UNet


def test_output_does_not_depend_on_the_padding_side_of_a_multiple():
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=(8, 8, 16)), 3).eval()
    image = torch.randn(1, 3, 48, 48)
    # 45 pixels are grown to 48 by reflection: far from that side little changes but the statistics of the image.
    whole, cut = net(image).softmax(1), net(image[..., :45, :45]).softmax(1)
    assert torch.allclose(whole[..., :20, :20], cut[..., :20, :20], atol=0.05)


def test_predict_gives_probabilities_that_turn_with_the_image():
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=(8, 8, 16)), 3).eval()
    image = torch.randn(2, 3, 32, 32)
    plain, averaged = predict(net, image, flips=False), predict(net, image, flips=True)
    for result in (plain, averaged):
        assert torch.allclose(result.sum(1), torch.ones(2, 32, 32), atol=1e-5)
    turned = predict(net, image.rot90(1, (-2, -1)), flips=True)
    assert torch.allclose(turned.rot90(-1, (-2, -1)), averaged, atol=1e-5)
    assert not torch.allclose(predict(net, image.rot90(1, (-2, -1)), flips=False).rot90(-1, (-2, -1)), plain, atol=1e-5)


def test_a_temperature_flattens_and_keeps_the_order():
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=(8, 8)), 1).eval()
    image = torch.randn(2, 1, 16, 16)
    for flips in (False, True):
        sharp, flat = predict(net, image, flips), predict(net, image, flips, temperature=3.0)
        assert torch.equal(sharp.argmax(1), flat.argmax(1))
        assert (flat.max(1).values <= sharp.max(1).values + 1e-6).all()
        assert torch.allclose(flat.sum(1), torch.ones(2, 16, 16), atol=1e-5)
