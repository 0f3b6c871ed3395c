"""From simulated lenses to a trained network, its estimates, and fits that begin at them."""

import csv
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file

from lenspipe.config import parse
from lenspipe.errors import Interrupted, LenspipeError
from lenspipe.io import shards
from lenspipe.io.catalogue import read_ecsv, write_ecsv
from lenspipe.io.estimates import read_estimates
from lenspipe.io.masks import write_masks
from lenspipe.nets.config import UNetConfig
from lenspipe.sim.observe import observe
from lenspipe.sim.population import Population
from lenspipe.sim.survey import Survey
from lenspipe.stages import estimate, model, segment, select, train_estimates
from lenspipe.train.problem import Estimation
from lenspipe.types import DEFLECTOR, Cutout
from tests.stages.fitting import QUICK
from tests.stages.outputs import Family
from tests.stages.test_segment import stand_in

N, LENSES = 40, 32
OPTIONS = {"max_epochs": 2, "batch_size": 8, "survey": "toy", "validation": 0.2, "test": 0.2, "precision": "32-true"}


def simulated(folder, n=N, lenses=LENSES, prefix="SIM"):
    """A shard of lenses and non-lenses, and their layers."""
    survey = Survey(n_pixels=31)
    made = observe(list(range(n)), [i < lenses for i in range(n)], Population(), survey, 1)
    nan, psf = np.full(3, np.nan), np.ones((3, 1, 1), np.float32)
    gain = survey.effective_gain()
    cutouts = []
    for i in range(n):
        image = made.image[i].astype(np.float32)
        rms = made.sky_rms[i].astype(np.float64)
        sigma = np.sqrt(rms[:, None, None] ** 2 + np.clip(image, 0, None) / np.asarray(gain)[:, None, None])
        valid = np.ones(image.shape, bool)
        cutouts.append(
            Cutout(f"{prefix}{i:03d}", ("g", "r", "i"), image, sigma.astype(np.float32), valid, psf, made.fwhm[i],
                   survey.pixel_scale, rms, np.asarray(gain), nan)
        )  # fmt: skip
    rows = made.rows()
    table = {f"true_{name}": np.array([row["truth"].get(name, np.nan) for row in rows]) for name in DEFLECTOR}
    table["is_lens"] = np.arange(n) < lenses
    folder.mkdir(parents=True, exist_ok=True)
    shards.write(folder / "000.h5", cutouts, shards.Extra(table=table))
    with h5py.File(folder / "layers.h5", "w") as f:
        f.create_dataset("id", data=[c.id for c in cutouts], dtype=h5py.string_dtype())
        for i, name in enumerate(("source", "lens", "others")):
            f[name] = made.layers[:, i]
        f["sky_rms"], f["exposure_time"] = made.sky_rms, np.tile(gain, (n, 1))
        f.attrs["bands"] = ["g", "r", "i"]
    return {"shard": {"000": folder / "000.h5"}, "layers": folder / "layers.h5"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("sim"))


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimator") / "estimator"
    return train(inputs, folder), folder


def train(inputs, folder, **options):
    config = parse(train_estimates.TrainEstimatesConfig, OPTIONS | options, "train_estimates")
    return train_estimates.run(config, inputs, {"estimator": folder}, 5)


def estimated(inputs, folder, out, **options):
    config = parse(estimate.EstimateConfig, options, "estimate")
    outputs = {"estimates": {"000": out}}
    assert estimate.run(config, {**inputs, "estimator": folder}, outputs, 0) == {"failed": {}}
    return read_estimates(out)


def test_leaves_weights_with_a_card(trained):
    result, folder = trained
    names = {"model.safetensors", "card.json", "MODEL_CARD.md", "metrics.csv", "losses.csv", "curves.png"}
    assert {path.name for path in folder.iterdir()} == names
    card = json.loads((folder / "card.json").read_text())
    assert (card["architecture"], card["classes"], card["survey"]) == ("Estimator", list(DEFLECTOR), "toy")
    assert card["options"]["name"] == "efficientnet_b0" and card["options"]["window"] == 31
    assert card["options"]["masks"] is False and card["training"]["masks"] == "none"
    # Only lenses are learnt from: nothing is true of the deflector of anything else.
    assert sum(card["training"][f"n_{part}"] for part in ("train", "validation", "test")) == LENSES
    assert {"coverage68_theta_E", "coverage95_shear", "rms_center", "theta_E_median_rel_error"} <= set(card["metrics"])
    assert {"theta_E", "theta_E_flips", "shear_flips"} <= set(card["calibration"])
    with (folder / "metrics.csv").open() as stream:
        assert "val_coverage95_theta_E" in next(csv.DictReader(stream))
    assert result["figures"]["epochs"] == 2


def test_estimates_lead_to_bundles_and_starts(trained, inputs, tmp_path):
    found = estimated(inputs, trained[1], tmp_path / "e.h5")
    assert len(found) == N and found["SIM000"].origin == "estimates"
    for each in found.values():
        np.linalg.cholesky(each.covariance)
    # Of whatever is there, selected or not, the same for any batch size.
    again = estimated(inputs, trained[1], tmp_path / "f.h5", batch_size=7)
    np.testing.assert_allclose(again["SIM003"].mean, found["SIM003"].mean, atol=1e-4)

    with shards.Shard(inputs["shard"]["000"]) as shard:
        probability = np.zeros((N, 4, 31, 31), np.float32)
        probability[:, 3] = 1
        probability[:, :, 12:19, 12:19] = np.array([0, 1, 0, 0])[:, None, None]
        write_masks(tmp_path / "m.h5", shard.ids, probability, "hand")
    write_ecsv(tmp_path / "shards.ecsv", {"key": ["000"], "n": [N]})
    given = {"shards": tmp_path / "shards.ecsv", "shard": inputs["shard"], "masks": {"000": tmp_path / "m.h5"}}
    outputs = {"candidates": tmp_path / "c.ecsv", "bundle": Family(tmp_path / "bundles")}
    select.run(select.SelectConfig(all=True), {**given, "estimates": {"000": tmp_path / "e.h5"}}, outputs, 0)
    row = read_ecsv(outputs["candidates"])[0]
    assert row["estimated_theta_E"] == pytest.approx(np.exp(found[row["key"]].mean[2]))
    carried = shards.read_bundle(outputs["bundle"]["SIM000"])[2]
    np.testing.assert_array_equal(carried.covariance, found["SIM000"].covariance)

    quick = {"sampler": {"burn": 10, "min_steps": 10, "max_steps": 10}, "data": {"subpixel_error": None}}
    options = model.ModelConfig.model_validate(QUICK | quick)
    models = {"model": {"SIM000": tmp_path / "fit"}}
    assert model.run(options, {"bundle": {"SIM000": outputs["bundle"]["SIM000"]}}, models, 7) == {"failed": {}}
    assert json.loads((tmp_path / "fit/fit.json").read_text())["estimates"] == "estimates"

    plain = {"candidates": tmp_path / "d.ecsv", "bundle": Family(tmp_path / "plain")}
    select.run(select.SelectConfig(all=True), given, plain, 0)
    assert not [name for name in read_ecsv(plain["candidates"]).colnames if name.startswith("estimated")]
    assert shards.read_bundle(plain["bundle"]["SIM000"])[2] is None


def test_a_training_that_is_cut_short_goes_on_to_the_same_weights(trained, inputs, tmp_path, monkeypatch):
    forward, calls = Estimation.forward, []

    def once(self, batch):
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted("a signal")
        return forward(self, batch)

    monkeypatch.setattr(Estimation, "forward", once)
    with pytest.raises(Interrupted):
        train(inputs, tmp_path / "estimator", checkpoint_minutes=1e-9)
    assert (tmp_path / ".train_estimates-checkpoints").exists()
    train(inputs, tmp_path / "estimator", checkpoint_minutes=1e-9)
    assert not (tmp_path / ".train_estimates-checkpoints").exists()
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (trained[1], tmp_path / "estimator"))
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_masks_are_seen_where_a_network_segments(inputs, tmp_path):
    stand_in(tmp_path, UNetConfig(channels=(8, 8)), bands=("g", "r", "i"), pixel_scale=0.2637)
    weights = tmp_path / "weights"
    train({**inputs, "weights": weights}, tmp_path / "estimator", max_epochs=1)
    card = json.loads((tmp_path / "estimator/card.json").read_text())
    assert card["options"]["masks"] is True and card["training"]["masks"] == "mine"
    with pytest.raises(LenspipeError, match="sees the masks of 'mine' too, and nothing was segmented"):
        estimated(inputs, tmp_path / "estimator", tmp_path / "e.h5")
    masks = {"masks": {"000": tmp_path / "m.h5"}}
    segment.run(segment.SegmentConfig(), {**inputs, "weights": weights}, masks, 0)
    assert len(estimated({**inputs, **masks}, tmp_path / "estimator", tmp_path / "e.h5")) == N
    segment.run(segment.SegmentConfig(), inputs, masks, 0)
    with pytest.raises(LenspipeError, match=r"masks by 'photutils'; estimates was trained with those of 'mine'"):
        estimated({**inputs, **masks}, tmp_path / "estimator", tmp_path / "e.h5")
    with pytest.raises(LenspipeError, match="name a segmenter"):
        train(inputs, tmp_path / "other", net={"masks": True})


def test_weights_of_another_survey_or_architecture_are_refused(trained, inputs, tmp_path):
    folder = trained[1]
    with pytest.raises(LenspipeError, match="for the survey 'toy', not 'des'"):
        estimated(inputs, folder, tmp_path / "e.h5", survey="des")
    with shards.Shard(inputs["shard"]["000"]) as shard:
        cutout = shard.cutout(0)
    for change, why in (({"bands": ("g", "r", "z")}, "the bands"), ({"pixel_scale": 0.05}, "a pixel scale of")):
        shards.write(tmp_path / "s.h5", [replace(cutout, **change)])
        with pytest.raises(LenspipeError, match=why):
            estimated({"shard": {"000": tmp_path / "s.h5"}}, folder, tmp_path / "e.h5")
    stand_in(tmp_path, UNetConfig(channels=(8, 8)))
    with pytest.raises(LenspipeError, match="'UNet' do not estimate; Estimator does"):
        estimated(inputs, tmp_path / "weights", tmp_path / "e.h5")
    with pytest.raises(LenspipeError, match="'Estimator' do not segment"):
        segment.run(segment.SegmentConfig(weights=folder), inputs, {"masks": {"000": tmp_path / "m.h5"}}, 0)
    with pytest.raises(LenspipeError, match="no weights"):
        estimate.run(estimate.EstimateConfig(), inputs, {"estimates": {"000": tmp_path / "e.h5"}}, 0)


def test_shards_without_truth_are_refused(inputs, tmp_path):
    with shards.Shard(inputs["shard"]["000"]) as shard:
        cutout = shard.cutout(0)
    shards.write(tmp_path / "s.h5", [cutout])
    with pytest.raises(LenspipeError, match=r"s\.h5: has no column true_center_x"):
        train({"shard": {"000": tmp_path / "s.h5"}}, tmp_path / "estimator")
    table = {f"true_{name}": np.array([np.nan]) for name in DEFLECTOR}
    shards.write(tmp_path / "s.h5", [cutout], shards.Extra(table=table))
    with pytest.raises(LenspipeError, match="0 objects to learn from are too few"):
        train({"shard": {"000": tmp_path / "s.h5"}}, tmp_path / "estimator")
