import dataclasses

import numpy as np
import pytest
import torch

from lenspipe.errors import LenspipeError
from lenspipe.io import shards, weights
from lenspipe.io.masks import read_answers, read_masks, write_masks
from lenspipe.nets.build import build
from lenspipe.nets.config import ISNetConfig, SmpUNetConfig, UNetConfig
from lenspipe.nets.familiarity import Familiarity
from lenspipe.sim.observe import observe
from lenspipe.sim.population import Population
from lenspipe.sim.survey import Survey
from lenspipe.stages import segment
from lenspipe.types import CLASSES, Cutout


def test_photutils_stands_in_where_there_are_no_weights(tmp_path):
    survey = Survey()
    seen = observe([1, 2, 3, 4], [True] * 4, Population(), survey, 1)
    sigma = np.broadcast_to(seen.sky_rms[:, :, None, None], seen.image.shape).astype(np.float32)
    nan, valid = np.full(3, np.nan), np.ones(seen.image.shape[1:], bool)
    psf = np.ones((3, 1, 1), np.float32)
    cutouts = [
        Cutout(f"S{i}", ("g", "r", "i"), seen.image[i], sigma[i], valid, psf, seen.fwhm[i], 0.2637, nan, nan, nan)
        for i in range(4)
    ]
    shards.write(tmp_path / "shard.h5", cutouts)
    outputs = {"masks": {"0": tmp_path / "masks.h5"}}
    assert segment.run(segment.SegmentConfig(), {"shard": {"0": tmp_path / "shard.h5"}}, outputs, 0) == {"failed": {}}
    ids, probability, origin = read_masks(tmp_path / "masks.h5")
    assert ids == ["S0", "S1", "S2", "S3"] and origin == "photutils"
    assert np.allclose(probability.sum(1), 1, atol=2e-3)
    assert (probability[:, CLASSES.index("lens"), 21:24, 21:24] > 0.5).all()


def stand_in(folder, config=None, named=True, **card):
    """Untrained weights, by default for two bands, and a shard of two images."""
    config = config or UNetConfig(channels=(8, 8))
    bands = card.get("bands", ("g", "r"))
    rng, nan, psf = np.random.default_rng(0), np.full(2, np.nan), np.ones((2, 1, 1), np.float32)
    cutouts = []
    for name in ("a", "b"):
        image = rng.normal(0, 1, (2, 12, 12)).astype(np.float32)
        ones = np.ones_like(image)
        cutouts.append(Cutout(name, ("g", "r"), image, ones, ones > 0, psf, nan, 0.25, nan, nan, nan))
    shards.write(folder / "shard.h5", cutouts)
    torch.manual_seed(0)
    net = build(config.at_inference(), len(bands)).eval()
    options = config.model_dump(mode="json", exclude=set() if named else {"name"})
    made = weights.Card("mine", type(net).__name__, options, "toy", ("g", "r"), 0.25, CLASSES, "")
    (folder / "weights").mkdir()
    features = torch.randn(20, net.describe(torch.zeros(1, len(bands), 12, 12)).shape[1])
    tensors = net.state_dict() | Familiarity.fit(features, features).tensors()
    weights.save(folder / "weights", tensors, dataclasses.replace(made, **card))
    return net


def segmented(folder, **options):
    config = segment.SegmentConfig(weights=folder / "weights", **options)
    outputs = {"masks": {"0": folder / "masks.h5"}}
    assert segment.run(config, {"shard": {"0": folder / "shard.h5"}}, outputs, 0) == {"failed": {}}
    return read_masks(folder / "masks.h5")[1], read_answers(folder / "masks.h5")


@pytest.mark.parametrize("config", [UNetConfig(channels=(8, 8)), ISNetConfig(width=16)])
def test_a_card_rebuilds_its_network_with_temperature_and_familiarity(tmp_path, config):
    net = stand_in(tmp_path, config, calibration={"temperature": 2.0, "temperature_flips": 0.5})
    found, answers = segmented(tmp_path, flips=False)
    with shards.Shard(tmp_path / "shard.h5") as shard, torch.no_grad():
        expected = (net(torch.as_tensor(shard.file["image"][:])) / 2).softmax(1)
    assert np.allclose(found, expected, atol=2e-3)
    assert ((answers.familiarity > 0) & (answers.familiarity <= 1)).all()
    assert (answers.arc_found == (found[:, CLASSES.index("source")] > 0.5).any((1, 2))).all()


def test_weights_from_before_there_were_names_or_calibration_still_segment(tmp_path):
    old = SmpUNetConfig(
        encoder_options={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4},
        depth=2,
        decoder_channels=(8, 8),
    )
    stand_in(tmp_path, old, named=False, architecture="UNet")
    assert np.allclose(segmented(tmp_path)[0].sum(1), 1, atol=2e-3)


def test_weights_that_do_not_segment_or_do_not_fit_their_card_are_refused(tmp_path):
    for folder, card, why in (
        ("a", {"architecture": "Classifier"}, "'Classifier' do not segment"),
        ("b", {"options": {"name": "unet", "channels": [8, 16]}}, "not those of the network on the card"),
        ("c", {"options": {"name": "unet", "depth": 3}}, "depth"),
        ("d", {"bands": ("g", "i")}, "the bands"),
    ):
        (tmp_path / folder).mkdir()
        stand_in(tmp_path / folder, **card)
        with pytest.raises(LenspipeError, match=why):
            segmented(tmp_path / folder)


def test_no_arc_is_an_answer(tmp_path):
    stand_in(tmp_path)
    probability = np.zeros((2, 4, 12, 12), np.float32)
    probability[:, 3] = 1
    probability[1, :, 3, 3] = [0.6, 0, 0, 0.4]
    write_masks(tmp_path / "m.h5", ["a", "b"], probability, "net")
    answers = read_answers(tmp_path / "m.h5")
    assert answers.arc_found.tolist() == [False, True]
    assert np.isnan(answers.familiarity).all()
