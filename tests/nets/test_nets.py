"""One tester run on every network."""

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.nets import config as c
from lenspipe.nets.build import build, rebuild
from lenspipe.nets.config import LossConfig
from lenspipe.nets.losses import Loss
from lenspipe.nets.predict import describe, predict
from lenspipe.nets.smp import SmpUNet

NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4}
NETS = {
    "unet": c.UNetConfig(channels=(8, 8, 16)),
    "smp_unet": c.SmpUNetConfig(encoder_options=NARROW, depth=3, decoder_channels=(8, 8, 8)),
    "smp_unet_twice": c.SmpUNetConfig(encoder_options=NARROW, depth=3, decoder_channels=(8, 8, 8), upsample=2),
    "smp_unet_resnet18": c.SmpUNetConfig(encoder="resnet18", encoder_options={}, depth=3, decoder_channels=(8, 8, 8)),
    "deeplabv3plus": c.DeepLabV3PlusConfig(encoder="tu-resnet18", encoder_options=NARROW, decoder_channels=16),
    "isnet": c.ISNetConfig(width=16),
    "isnet_plain": c.ISNetConfig(width=16, stem_stride=1, intermediate=False),
    "msrfnet": c.MSRFNetConfig(channels=(8, 8, 16, 16), growth=(8, 8, 8)),
}
LOSS = Loss(LossConfig())


@pytest.fixture(params=NETS)
def config(request):
    return NETS[request.param]


@pytest.fixture
def net(config):
    torch.manual_seed(0)
    return build(config, 2)


def batch(n=2, bands=2, size=(16, 16)):
    """Squares on noise: (N, B, H, W) and labels."""
    torch.manual_seed(1)
    label = torch.full((n, *size), 3)
    label[:, 4:12, 5:10] = torch.randint(0, 3, (n, 1, 1))
    image = torch.randn(n, bands, *size) + torch.tensor([20.0, 60.0, 8.0, 0.0])[label][:, None]
    return image, label


@pytest.mark.parametrize("size", [(45, 45), (7, 5), (33, 50)])
def test_any_size_in_same_size_out(net, size):
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 2, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize("bands", [1, 5])
def test_any_number_of_bands(config, bands):
    with torch.no_grad():
        assert build(config, bands).eval()(torch.randn(1, bands, 16, 16)).shape == (1, 4, 16, 16)


@pytest.mark.parametrize("n", [1, 3])
def test_every_parameter_learns_also_from_a_batch_of_one(net, n):
    net.train()
    sums = net.supervise(*batch(n, size=(37, 40)), LOSS)[1]
    net.total_loss(sums, LOSS).backward()
    learning = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    assert [name for name, grad in learning.items() if grad is None or not grad.isfinite().all()] == []
    # Layers that an encoder has below the depth asked for are frozen, and are no part of any other network.
    assert len(learning) > (10 if isinstance(net, SmpUNet) else len(list(net.parameters())) - 1)


def test_learns_what_can_be_told_by_brightness(net):
    image, label = batch(8)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        loss = net.total_loss(net.supervise(image, label, LOSS)[1], LOSS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_loss_of_two_halves_is_that_of_the_whole(config, net):
    if isinstance(config, c.SmpUNetConfig | c.DeepLabV3PlusConfig):
        net.eval()  # batch normalisation looks at the batch
    image, label = batch(4)
    with torch.no_grad():
        whole = net.total_loss(net.supervise(image, label, LOSS)[1], LOSS)
        halves = net.supervise(image[:1], label[:1], LOSS)[1] + net.supervise(image[1:], label[1:], LOSS)[1]
        assert net.total_loss(halves, LOSS).item() == pytest.approx(whole.item(), rel=1e-4)


@pytest.mark.parametrize("unit", [1e-12, 1e5])
def test_flux_unit_does_not_matter(net, unit):
    image, _ = batch()
    net.eval()
    expected, found = (predict(net, x, flips=False) for x in (image, unit * image))
    assert torch.allclose(found, expected, atol=2e-3)


def test_missing_and_empty_pixels_spoil_nothing(net):
    image, _ = batch()
    image[0, 0, :3] = torch.nan
    image[1] = 0
    assert predict(net.eval(), image, flips=True).isfinite().all()


def test_weights_come_back_through_safetensors(config, net):
    image, _ = batch()
    net.eval()
    wanted = build(config.at_inference(), 2).state_dict()
    stored = load(save({name: value.contiguous() for name, value in net.state_dict().items() if name in wanted}))
    again = rebuild(config.model_dump(mode="json"), 2, "card").eval()
    again.load_state_dict(stored)
    assert torch.equal(predict(net, image, flips=False), predict(again, image, flips=False))
    assert torch.equal(describe(net, image), describe(again, image))


def test_supervision_returns_the_answer_too(net):
    image, label = batch()
    net.eval()
    with torch.no_grad():
        assert torch.allclose(net.supervise(image, label, LOSS)[0], net(image), atol=1e-5)


def test_exports(config, net):
    image, _ = batch()
    net.eval()
    with torch.no_grad():
        exported = torch.export.export(net, (image,)).module()
        assert torch.allclose(exported(image), net(image), atol=1e-4)


def test_one_feature_vector_an_image(net):
    image, _ = batch(3)
    net.eval()
    features = describe(net, image)
    assert features.shape[0] == 3 and features.ndim == 2 and features.isfinite().all()
    assert torch.allclose(describe(net, image[1:2]), features[1:2], atol=1e-4)


def test_chosen_by_name_and_by_none_what_there_was_before_names():
    def kind(options):
        return type(parse(c.AnyNetConfig, {"net": options}, "train").net)

    assert kind({"name": "isnet", "width": 32}) is c.ISNetConfig
    assert kind({"encoder_options": NARROW, "depth": 2, "decoder_channels": [8, 8]}) is c.SmpUNetConfig
    with pytest.raises(LenspipeError, match="resunet"):
        kind({"name": "resunet"})
    with pytest.raises(LenspipeError, match="widht"):
        kind({"name": "isnet", "widht": 32})


@pytest.mark.parametrize(
    "wrong, why",
    [
        (lambda: c.SmpUNetConfig(depth=4, decoder_channels=(8, 8)), "one number for each of the 4 levels"),
        (lambda: c.UNetConfig(channels=(10, 16)), "multiples of 8"),
        (lambda: c.MSRFNetConfig(growth=(4, 8, 8)), "multiples of 8"),
        (lambda: c.LossConfig(cross_entropy=0, dice=0), "at least one loss"),
    ],
)
def test_impossible_options_are_refused(wrong, why):
    with pytest.raises(ValidationError, match=why):
        wrong()
