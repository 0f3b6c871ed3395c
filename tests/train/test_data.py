import numpy as np
import torch

from lenspipe.train.data import CutoutData, Objects, part_of, redraw_noise, turn

IDS = [f"SIM{i:07d}" for i in range(2000)]


def test_parts_depend_on_the_id_alone_and_have_the_stated_sizes():
    parts = [part_of(i, 0.1, 0.2) for i in IDS]
    assert parts == [part_of(i, 0.1, 0.2) for i in IDS]
    share = {name: parts.count(name) / len(IDS) for name in set(parts)}
    assert abs(share["validation"] - 0.1) < 0.03 and abs(share["test"] - 0.2) < 0.03
    # More validation objects come out of training; the test set stays what it was.
    wider = [part_of(i, 0.3, 0.2) for i in IDS]
    assert [p == "test" for p in wider] == [p == "test" for p in parts]


def objects(n):
    number = np.arange(n, dtype=np.float32)
    image = np.broadcast_to(number[:, None, None, None], (n, 2, 8, 8)).copy()
    label = np.zeros((n, 8, 8), np.uint8)
    return Objects(IDS[:n], image, label, clean=image, sky_rms=np.ones((n, 2), "f4"), gain=np.ones((n, 2), "f4"))


def test_no_object_is_in_two_parts_and_only_training_can_redraw():
    data = CutoutData(objects(300), 32, 0.1, 0.2)
    loaders = {"train": data.train_dataloader(), "validation": data.val_dataloader(), "test": data.test_dataloader()}
    seen = {name: {int(v) for batch in loader for v in batch[0][:, 0, 0, 0]} for name, loader in loaders.items()}
    assert seen["validation"] | seen["test"] == set(range(300)) - set(data.rows["train"].tolist())
    assert not (seen["train"] & seen["validation"] or seen["train"] & seen["test"] or seen["validation"] & seen["test"])
    assert {name: len(next(iter(loader))) for name, loader in loaders.items()} == {
        "train": 5,
        "validation": 2,
        "test": 2,
    }


def test_redrawn_noise_has_the_variance_of_sky_and_photons():
    torch.manual_seed(0)
    clean = torch.full((1, 2, 300, 300), 12.0)
    clean[:, 1] = -1.0  # a negative model has no photons
    noisy = redraw_noise(clean, torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0, 5.0]]))
    assert torch.allclose((noisy - clean).std((-1, -2)), torch.tensor([[8.0**0.5, 1.0]]), rtol=0.02)


def test_turns_take_image_and_label_along_and_reach_all_eight():
    torch.manual_seed(0)
    label = torch.arange(9).reshape(1, 3, 3).repeat(200, 1, 1)
    image = label[:, None].float().repeat(1, 2, 1, 1)
    turned, turned_label = turn(image, label)
    assert (turned == turned_label[:, None]).all()
    assert len({tuple(x.flatten().tolist()) for x in turned_label}) == 8
    assert turn(torch.zeros(4, 2, 3, 5), torch.zeros(4, 3, 5))[0].shape == (4, 2, 3, 5)
