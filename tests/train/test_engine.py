import csv
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

from lenspipe.errors import Interrupted, LenspipeError
from lenspipe.train import engine
from tests.backends.processes import MARK, marked, until
from tests.train import toys

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]


@pytest.fixture
def place(tmp_path):
    toys.write(tmp_path)
    return tmp_path


def same(a, b):
    return a.losses == b.losses and all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


def figures(result):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def test_learns_and_keeps_the_best_epoch(place):
    result = toys.train(place, max_epochs=8)
    assert [row["epoch"] for row in result.history] == list(range(1, 9))
    assert len(result.losses) == 8 * 6 and result.losses[-1] < 0.8 * result.losses[0]
    assert {"macro_iou", "iou_source", "dice_lens", "recall_background", "ece"} <= set(result.metrics)
    net = toys.Net()
    net.load_state_dict(result.weights)
    check = toys.Segmentation(net, toys.LOSS)
    for batch in toys.Batches(toys.objects(place), 16, 7, toys.Ranks()).evaluation("validation"):
        check.measure(batch)
    best = max(row["val_macro_iou"] for row in result.history)
    assert check.figures()["macro_iou"] == pytest.approx(best, abs=1e-6)
    assert len(list((place / "checkpoints").glob("last-*.ckpt"))) == 2
    with (place / "checkpoints/metrics.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 8


def test_stops_when_the_time_is_over_with_the_learning_rate_at_zero(place, monkeypatch):
    rates = []
    rise_and_fall = engine._rise_and_fall
    monkeypatch.setattr(engine, "_rise_and_fall", lambda done: rates.append(rise_and_fall(done)) or rates[-1])
    result = toys.train(place, max_epochs=100000, max_minutes=1e-5)
    assert len(result.history) == 2  # one to measure the time, one for the learning rate to fall
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("what", ["term", "usr1"])
def test_asked_to_end_it_goes_on_in_the_midst_of_an_epoch_to_the_same_weights(place, tmp_path, what):
    toys.write(tmp_path / "again")
    whole = toys.train(place)
    with pytest.raises(Interrupted, match="in epoch 2"):
        toys.train(tmp_path / "again", at=9, what=what)
    assert engine._checkpoints(tmp_path / "again/checkpoints")[0].name == "last-000001-00000003.ckpt"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = toys.train(tmp_path / "again")
    assert same(whole, resumed) and figures(whole) == figures(resumed)


def test_killed_while_it_writes_it_goes_on_from_what_is_whole(place, tmp_path, monkeypatch):
    toys.write(tmp_path / "again")
    whole = toys.train(place)
    with pytest.raises(LenspipeError, match="an error"):  # no chance to write anything
        toys.train(tmp_path / "again", at=15, what="error", checkpoint_minutes=1e-9)
    newest, _ = engine._checkpoints(tmp_path / "again/checkpoints")
    newest.write_bytes(newest.read_bytes()[:1000])
    assert same(whole, toys.train(tmp_path / "again"))


def test_checkpoints_are_written_whole_or_not_at_all(place, monkeypatch):
    def full(content, path):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    with pytest.raises(LenspipeError, match="an error"):
        toys.train(place, at=9, what="error")
    before = {path: path.read_bytes() for path in (place / "checkpoints").iterdir()}
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        toys.train(place)
    assert {path: path.read_bytes() for path in (place / "checkpoints").iterdir()} == before


def test_a_loss_that_is_no_number_is_said(place):
    with pytest.raises(LenspipeError, match="no number in epoch 1; a lower learning_rate"):
        toys.train(place, learning_rate=1e30)


def test_tensorboard_is_an_extra(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(LenspipeError, match=r"lenspipe\[tensorboard\]"):
        toys.train(place, max_epochs=1, tensorboard=True)


def launch(place, *happens):
    mark = uuid.uuid4().hex
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: mark}
    argv = [*TORCHRUN, "tests.train.toys", str(place), *map(str, happens)]
    began = time.monotonic()
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200)
    until(lambda: not marked(mark), 30)
    return done, time.monotonic() - began


def test_two_ranks_have_the_loss_curve_of_one_and_a_killed_one_ends_both(place, tmp_path):
    toys.write(tmp_path / "two")
    alone = toys.train(place)
    done, _ = launch(tmp_path / "two", 1, 9, "kill")
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    assert not (tmp_path / "two/result.json").exists()
    assert engine._checkpoints(tmp_path / "two/checkpoints")[0].name == "last-000001-00000002.ckpt"
    done, _ = launch(tmp_path / "two")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "two/result.json").read_text())
    assert np.abs(np.subtract(result["losses"], alone.losses)).max() < 1e-3
    for mine, theirs in zip(alone.history, result["history"], strict=True):
        assert theirs["val_loss"] == pytest.approx(mine["val_loss"], abs=1e-3)
        assert theirs["val_macro_iou"] == pytest.approx(mine["val_macro_iou"], abs=0.01)


def test_one_rank_that_is_asked_to_end_ends_all_with_a_checkpoint(place):
    done, _ = launch(place, 1, 9, "usr1")
    assert done.returncode != 0 and "Interrupted: training was asked to end in epoch 2" in done.stderr
    assert (place / "checkpoints/last-000001-00000003.ckpt").exists()
