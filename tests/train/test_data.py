from dataclasses import replace

import numpy as np
import pytest
import torch

from lenspipe.ranks import Ranks
from lenspipe.train import data
from lenspipe.train.data import Batches, TrainingSet, epoch_order, part_of, redraw_noise, turn
from tests.train import toys

IDS = [f"SIM{i:07d}" for i in range(2000)]


def test_parts_depend_on_the_id_alone_and_have_the_stated_sizes():
    parts = [part_of(i, 0.1, 0.2) for i in IDS]
    assert parts == [part_of(i, 0.1, 0.2) for i in IDS]
    share = {name: parts.count(name) / len(IDS) for name in set(parts)}
    assert abs(share["validation"] - 0.1) < 0.03 and abs(share["test"] - 0.2) < 0.03
    # More validation objects come out of training; the test set stays what it was.
    wider = [part_of(i, 0.3, 0.2) for i in IDS]
    assert [p == "test" for p in wider] == [p == "test" for p in parts]


def test_an_epoch_mixes_shards_and_holds_each_object_once(monkeypatch):
    monkeypatch.setattr(data, "WINDOW", 100)
    shard = np.repeat(np.arange(20), 50)
    orders = [epoch_order(shard, 1, epoch) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(1000))
        windows = [set(shard[order[start : start + 100]]) for start in range(0, 1000, 100)]
        assert 2 <= np.mean([len(window) for window in windows]) <= 5  # few shards at a time are read
        assert np.abs(np.diff(order)[:50]).mean() > 5
    assert not np.array_equal(*orders)
    assert np.array_equal(orders[1], epoch_order(shard, 1, 1))


def epoch(objects, ranks, readers=0, first=0, batch=16):
    """Step -> its images, the ranks' shares one after the other."""
    loaders = [Batches(objects, batch, 7, Ranks(rank, ranks), readers).training(2, first) for rank in range(ranks)]
    return [torch.cat([image for image, _ in shares]) for shares in zip(*loaders, strict=True)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("readers", [0, 2])
def test_batches_are_the_same_for_any_number_of_ranks_and_readers(tmp_path, monkeypatch, ranks, readers):
    monkeypatch.setattr(data, "WINDOW", 48)
    objects = toys.write(tmp_path)
    alone = epoch(objects, 1)
    assert len(alone) == len(objects.of("train")) // 16
    for step, shared in zip(alone, epoch(objects, ranks, readers), strict=True):
        assert torch.equal(step, shared)
    for step, later in zip(alone[3:], epoch(objects, ranks, readers, first=3), strict=True):
        assert torch.equal(step, later)
    # Turned images keep their sum: no object is there twice.
    sums = torch.cat(alone).double().sum((1, 2, 3)).round(decimals=6)
    assert len(set(sums.tolist())) == len(sums)


def test_parts_do_not_overlap_and_evaluation_leaves_none_out(tmp_path):
    objects = toys.write(tmp_path)
    seen = {}
    for part in ("validation", "test"):
        loaders = [Batches(objects, 16, 7, Ranks(rank, 3)).evaluation(part) for rank in range(3)]
        seen[part] = sorted(float(image.sum()) for loader in loaders for images, _ in loader for image in images)
        assert len(seen[part]) == len(objects.of(part))
    train = TrainingSet(objects, 16, 7)
    assert sum(len(objects.of(part)) for part in data.PARTS) == len(toys.IDS)
    assert len(train) * 16 <= len(objects.of("train"))
    assert not set(seen["validation"]) & set(seen["test"])


def test_fewer_objects_than_a_batch_are_one_batch(tmp_path):
    objects = toys.write(tmp_path)
    assert [len(step) for step in epoch(objects, 1, batch=1000)] == [len(objects.of("train"))]


def test_redrawn_noise_has_the_variance_of_sky_and_photons():
    clean = np.full((2, 300, 300), 12.0, np.float32)
    clean[1] = -1.0  # a negative model has no photons
    sky, gain = np.array([2.0, 1.0], np.float32), np.array([3.0, 5.0], np.float32)
    noisy = redraw_noise(clean, sky, gain, np.random.default_rng(0))
    assert (noisy - clean).std((-1, -2)) == pytest.approx([8.0**0.5, 1.0], rel=0.02)


def test_turns_take_image_and_label_along_and_reach_all_eight():
    label = np.arange(9).reshape(3, 3)
    image = np.stack([label, label]).astype(np.float32)
    seen = set()
    for seed in range(200):
        turned, turned_label = turn(image, label, np.random.default_rng(seed))
        assert (turned == turned_label).all()
        seen.add(tuple(turned_label.ravel().tolist()))
    assert len(seen) == 8
    assert turn(np.zeros((2, 3, 5)), np.zeros((3, 5)), np.random.default_rng(1))[0].shape == (2, 3, 5)


def test_parameters_turn_along_with_their_image():
    size, seen = 9, set()
    for seed in range(100):
        x, y = np.random.default_rng(seed).integers(-3, 4, 2)
        image = np.zeros((1, size, size), np.float32)
        image[0, size // 2 + y, size // 2 + x] = 1
        turned, parameters = turn(image, np.array([x, y, 1, 1, 2, 3, 4], np.float32), np.random.default_rng(seed))
        ((row, column),) = np.argwhere(turned[0])
        assert parameters[:2].tolist() == [column - size // 2, row - size // 2] and parameters.dtype == np.float32
        seen.add(tuple(parameters[3:5].tolist()))
    assert seen == {(a, b) for a in (1, -1) for b in (2, -2)}


def test_parameters_are_learnt_in_place_of_labels(tmp_path):
    objects = toys.write(tmp_path)
    truth = np.random.default_rng(0).normal(size=(len(toys.IDS), 7)).astype(np.float32)
    known = replace(objects, truth=truth)
    (_, validation), *_ = Batches(known, 16, 7, Ranks()).evaluation("validation")
    assert torch.equal(validation, torch.as_tensor(truth[objects.of("validation")][: len(validation)]))
    for image, answers in Batches(known, 16, 7, Ranks()).training(0, 0):
        assert image.shape[0] == len(answers) and answers.shape[1:] == (7,)
        # A turn permutes and changes signs: the Einstein radius and all magnitudes stay.
        assert set(answers[:, 2].tolist()) <= set(truth[:, 2].tolist())
