import csv
import json

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.io import shards
from lenspipe.io.masks import read_answers, read_masks
from lenspipe.nets.build import build
from lenspipe.nets.config import UNetConfig
from lenspipe.stages import segment, train
from lenspipe.types import Cutout

NET = {
    "encoder_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4},
    "depth": 2,
    "decoder_channels": [8, 8],
}
N, SIZE = 60, 24


def write_shard(path, ids, labelled=True):
    """Squares of three brightnesses on noise: what they are can be told by brightness."""
    rng = np.random.default_rng(len(ids[0]))
    cutouts, labels, clean = [], [], []
    for object_id in ids:
        label = np.full((SIZE, SIZE), 3, np.uint8)
        for kind in range(3):
            y, x = rng.integers(0, SIZE - 6, 2)
            label[y : y + 6, x : x + 6] = kind
        model = np.array([30.0, 200.0, 8.0, 0.0])[label][None].repeat(2, 0).astype(np.float32)
        image = (model + rng.normal(0, 1, model.shape)).astype(np.float32)
        nan = np.full(2, np.nan)
        valid = np.ones(image.shape, bool)
        valid[:, 0, 0] = False
        image[:, 0, 0] = 1e9
        psf = np.ones((2, 1, 1), np.float32)
        cutouts.append(Cutout(object_id, ("g", "r"), image, np.ones_like(image), valid, psf, nan, 0.25, nan, nan, nan))
        labels.append(label)
        clean.append(model)
    shards.write(path, cutouts, shards.Extra(np.stack(labels) if labelled else None))
    return np.stack(clean)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    ids = [f"SIM{i:03d}" for i in range(N)]
    first, second = write_shard(folder / "a.h5", ids[:40]), write_shard(folder / "b.h5", ids[40:])
    clean = np.concatenate([first, second])[::-1, ::-1]  # other order of objects and bands than in the shards
    with h5py.File(folder / "layers.h5", "w") as f:
        f.create_dataset("id", data=ids[::-1], dtype=h5py.string_dtype())
        f["source"], f["lens"], f["others"] = clean, np.zeros_like(clean), np.zeros_like(clean)
        f["sky_rms"], f["exposure_time"] = np.ones((N, 2)), np.full((N, 2), 50.0)
        f.attrs["bands"] = ["r", "g"]
    return {"shard": {"a": folder / "a.h5", "b": folder / "b.h5"}, "layers": folder / "layers.h5"}


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "weights"
    options = {"net": NET, "max_epochs": 12, "batch_size": 8, "survey": "toy", "learning_rate": 0.01}
    config = parse(train.TrainConfig, options, "train")
    return train.run(config, inputs, {"weights": folder}, 5), folder


def test_leaves_weights_with_a_card(trained):
    result, folder = trained
    names = {"model.safetensors", "card.json", "MODEL_CARD.md", "metrics.csv", "losses.csv", "curves.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert not (folder.parent / ".train-checkpoints").exists()
    card = json.loads((folder / "card.json").read_text())
    assert (card["survey"], card["bands"], card["pixel_scale"]) == ("toy", ["g", "r"], 0.25)
    assert card["training"]["noise_redrawn"] is True
    assert card["architecture"] == "SmpUNet" and card["options"]["name"] == "smp_unet"
    assert all(0.1 < card["calibration"][name] < 10 for name in ("temperature", "temperature_flips"))
    assert {"macro_iou", "precision_source", "ece"} <= set(card["metrics"])
    assert card["training"]["n_train"] + card["training"]["n_validation"] + card["training"]["n_test"] == N
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12 and float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert result["figures"]["macro_iou"] > 0.5


def test_weights_segment_new_shards_better_than_chance(trained, tmp_path):
    _, folder = trained
    write_shard(tmp_path / "new.h5", [f"CANDIDATE{i}" for i in range(5)])
    inputs = {"shard": {"new": tmp_path / "new.h5"}, "weights": folder}
    outputs = {"masks": {"new": tmp_path / "masks.h5"}}
    assert segment.run(segment.SegmentConfig(batch_size=2), inputs, outputs, 0) == {"failed": {}}
    ids, probability, origin = read_masks(tmp_path / "masks.h5")
    assert ids == [f"CANDIDATE{i}" for i in range(5)] and origin == "unet"
    with shards.Shard(tmp_path / "new.h5") as shard:
        truth = shard.labels()
    assert np.mean(probability.argmax(1) == truth) > 0.85
    answers = read_answers(tmp_path / "masks.h5")
    assert answers.arc_found.all() and ((answers.familiarity > 0) & (answers.familiarity <= 1)).all()
    with pytest.raises(LenspipeError, match="for the survey 'toy', not 'des'"):
        segment.run(segment.SegmentConfig(survey="des"), inputs, outputs, 0)


def test_shards_without_labels_or_layers_of_other_objects_are_refused(inputs, tmp_path):
    config = parse(train.TrainConfig, {"net": NET, "max_epochs": 1}, "train")
    write_shard(tmp_path / "plain.h5", ["SIM1"], labelled=False)
    with pytest.raises(LenspipeError, match="holds no labels"):
        train.run(config, {"shard": {"a": tmp_path / "plain.h5"}}, {"weights": tmp_path / "weights"}, 0)
    write_shard(tmp_path / "other.h5", ["OTHER1"])
    strange = {"shard": {"a": tmp_path / "other.h5"}, "layers": inputs["layers"]}
    with pytest.raises(LenspipeError, match="has no layers of OTHER1"):
        train.run(config, strange, {"weights": tmp_path / "weights"}, 0)


def test_labels_that_cannot_be_learnt_from_are_refused(tmp_path):
    config = parse(train.TrainConfig, {"net": NET}, "train")
    inputs, outputs = {"shard": {"a": tmp_path / "a.h5"}}, {"weights": tmp_path / "weights"}
    write_shard(tmp_path / "a.h5", ["SIM1", "SIM2"])
    with h5py.File(tmp_path / "a.h5", "a") as f:
        f["label"][1, 2, 3] = 9
    with pytest.raises(LenspipeError, match=r"a\.h5: a label is 9; the classes are 0 to 3"):
        train.run(config, inputs, outputs, 0)
    with h5py.File(tmp_path / "a.h5", "a") as f:
        f["label"][:] = 3
    with pytest.raises(LenspipeError, match="every label of the 1 shards is background"):
        train.run(config, inputs, outputs, 0)
    with h5py.File(tmp_path / "a.h5", "a") as f:
        del f["label"]
        f["label"] = np.zeros((1, SIZE, SIZE), np.uint8)
    with pytest.raises(LenspipeError, match=r"a\.h5: label holds 1 of 2 objects"):
        train.run(config, inputs, outputs, 0)
    with h5py.File(tmp_path / "a.h5", "a") as f:
        del f["label"]
        f["label"] = np.zeros((2, SIZE, SIZE - 1), np.uint8)
    with pytest.raises(LenspipeError, match=r"images of \(24, 24\) pixels and labels of \(24, 23\)"):
        train.run(config, inputs, outputs, 0)
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(LenspipeError, match=r"a\.h5: not a whole HDF5 file"):
        train.run(config, inputs, outputs, 0)


def test_too_few_objects_are_refused(tmp_path):
    write_shard(tmp_path / "one.h5", ["SIM1"])
    config = parse(train.TrainConfig, {"net": NET}, "train")
    with pytest.raises(LenspipeError, match="too few"):
        train.run(config, {"shard": {"a": tmp_path / "one.h5"}}, {"weights": tmp_path / "weights"}, 0)


def test_another_network_and_loss_train_and_segment(inputs, tmp_path):
    net = {"name": "isnet", "width": 16, "stem_stride": 1, "scaling": "minmax"}
    loss = {"cross_entropy": 0, "dice": 0, "jaccard": 1, "focal": 2}
    config = parse(train.TrainConfig, {"net": net, "loss": loss, "max_epochs": 1, "batch_size": 16}, "train")
    train.run(config, inputs, {"weights": tmp_path / "weights"}, 5)
    card = json.loads((tmp_path / "weights/card.json").read_text())
    assert card["architecture"] == "ISNet" and "0 to 1 over all bands" in card["normalisation"]
    outputs = {"masks": {"a": tmp_path / "masks.h5"}}
    segmented = {"shard": {"a": inputs["shard"]["a"]}, "weights": tmp_path / "weights"}
    assert segment.run(segment.SegmentConfig(flips=False), segmented, outputs, 0) == {"failed": {}}
    with safe_open(tmp_path / "weights/model.safetensors", "pt") as f:
        assert not any(name.startswith("truth_encoder") for name in f.keys())  # noqa: SIM118


def test_an_encoder_starts_from_a_file(inputs, tmp_path):
    config = parse(train.TrainConfig, {"net": NET}, "train").net
    state = build(config, 3).net.encoder.state_dict()
    save_file({name.removeprefix("model."): value for name, value in state.items()}, tmp_path / "encoder.safetensors")
    torch.save(state, tmp_path / "encoder.pth")
    for name in ("encoder.safetensors", "encoder.pth"):
        net = build(config, 2)
        train.start_encoder(net, tmp_path / name)
        deep = [key for key, value in state.items() if value.ndim == 4][-1]
        assert torch.equal(net.net.encoder.state_dict()[deep], state[deep])
    (tmp_path / "broken.pth").write_bytes(b"no")
    with pytest.raises(LenspipeError, match=r"broken\.pth: cannot be read"):
        train.start_encoder(build(config, 2), tmp_path / "broken.pth")
    with pytest.raises(LenspipeError, match="UNet has no encoder"):
        train.start_encoder(build(UNetConfig(channels=(8, 8)), 2), tmp_path / "encoder.pth")
