import numpy as np
import pytest
import torch

from lenspipe.train.data import CutoutData, Objects
from lenspipe.train.loop import Segmentation, fit, seed_everything


class Threshold(torch.nn.Module):
    """One convolution: enough for classes that are told by brightness."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 4, 1)

    def forward(self, image):
        return self.layer(image)


class Killed(Exception):
    pass


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (120, 8, 8)).astype(np.uint8)
    image = (3.0 * label + rng.normal(0, 0.1, label.shape))[:, None].astype(np.float32)
    return CutoutData(Objects([f"SIM{i:07d}" for i in range(120)], image, label), 16, 0.15, 0.15)


def module(max_epochs=12, max_minutes=5.0):
    seed_everything(3)
    return Segmentation(Threshold(), 0.3, 0.0, max_epochs, max_minutes)


def test_learns_and_keeps_the_best_epoch(data, tmp_path):
    result = fit(module(), data, tmp_path, "32-true")
    assert [row["epoch"] for row in result.history] == list(range(1, 13))
    assert result.history[-1]["train_loss"] < 0.7 * result.history[0]["train_loss"]
    best = max(row["val_macro_iou"] for row in result.history)
    net = Threshold()
    net.load_state_dict(result.weights)
    check = module()
    check.net = net
    rows = data.rows["validation"]
    check.val_iou.update(net(torch.tensor(data.objects.image[rows])).argmax(1), torch.tensor(data.objects.label[rows]))
    assert float(check.val_iou.compute()["macro_iou"]) == pytest.approx(best, abs=1e-6)
    assert set(result.metrics) == {"macro_iou", "iou_source", "iou_lens", "iou_noise", "iou_background"}
    assert len(list(tmp_path.glob("last-*.ckpt"))) == 2


def test_the_learning_rate_ends_at_zero(data, tmp_path):
    m = module(max_epochs=3)
    fit(m, data, tmp_path, "32-true")
    assert float(m.progress) == pytest.approx(1)
    assert m.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_stops_when_the_time_is_over(data, tmp_path):
    m = module(max_epochs=100000, max_minutes=1e-4)
    result = fit(m, data, tmp_path, "32-true")
    assert len(result.history) == 2  # one to measure the time, one for the learning rate to fall
    assert float(m.progress) == pytest.approx(1)


def killed_after(m, epochs):
    """`m`, which dies in the midst of the epoch after `epochs`."""
    step = m.training_step

    def dying(batch, batch_idx):
        if m.current_epoch == epochs and batch_idx == 2:
            raise Killed
        return step(batch, batch_idx)

    m.training_step = dying
    return m


def test_goes_on_from_the_last_whole_checkpoint(data, tmp_path):
    with pytest.raises(Killed):
        fit(killed_after(module(), 5), data, tmp_path, "32-true")
    newest = max(tmp_path.glob("last-*.ckpt"), key=lambda p: p.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:1000])  # and that one is broken
    m = module()
    epochs = []
    m.on_train_epoch_end = (lambda end: lambda: (epochs.append(m.current_epoch), end()))(m.on_train_epoch_end)
    result = fit(m, data, tmp_path, "32-true")
    assert epochs == list(range(4, 12))
    assert [row["epoch"] for row in result.history] == list(range(1, 13))
    assert float(m.progress) == pytest.approx(1)


def test_same_seed_same_weights(data, tmp_path):
    first, second = (fit(module(max_epochs=2), data, tmp_path / name, "32-true").weights for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
