"""A disk without room is an error that can be said, in every writer of HDF5."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lenspipe.io import shards
from lenspipe.io.estimates import write_estimates
from lenspipe.io.hdf5 import created, size_of
from lenspipe.io.masks import write_masks
from lenspipe.io.posterior import write_posterior
from lenspipe.io.samples import write_samples
from lenspipe.stages import label, simulate
from lenspipe.types import Masks, Posterior, Samples
from tests.io.test_shards import make

N, LIMIT = 8, 1 << 18
NOISE = np.random.default_rng(0).normal(size=(N, 4, 200, 200)).astype(np.float32)
IDS = [f"{i}" for i in range(N)]


def bundle(path):
    shards.write_bundle(path, make("a"), Masks(np.ones((4, 21, 23), np.float32), "hand"))


def simulation(path):
    config = simulate.SimulateConfig(n_lenses=5, n_nonlenses=5, supersampling=1)
    simulate.run(config, {}, {"layers": path, "simulations": path.with_suffix(".fits")}, 0)


def labels(path):
    layers = path.with_name("layers.h5")
    label.run(label.LabelConfig(), {"layers": layers}, {"labels": path, "label_sheet": path.with_suffix(".png")}, 0)


WRITERS = {
    "shards": lambda path: shards.write(path, [make(name) for name in IDS * 50]),
    "bundle": bundle,
    "masks": lambda path: write_masks(path, IDS, NOISE, "hand"),
    "estimates": lambda path: write_estimates(path, IDS * 999, np.ones((999 * N, 7)), np.ones((999 * N, 7, 7)), "net"),
    "posterior": lambda path: write_posterior(path, Posterior(("a",), ("",), NOISE, NOISE[..., 0], NOISE[0, 0, 0], {})),
    "samples": lambda path: write_samples(
        path, Samples(tuple(IDS), ("x",), np.zeros(N, "u1"), ("g", "r", "i", "z"), NOISE, "nJy", 0.2, {}, {}), {}, 0
    ),
    "simulate": simulation,
    "label": labels,
}


def limited(folder):
    """Call each of `WRITERS` where no file may grow beyond `LIMIT`; name -> what it says."""
    said = {}
    with h5py.File(f"{folder}/layers.h5", "w") as f:
        f["id"] = IDS
        for name in ("source", "lens", "others"):
            f.create_dataset(name, (N, 3, 300, 300), "f4", fillvalue=1)
        f["sky_rms"] = np.ones((N, 3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    for name, write in WRITERS.items():
        try:
            write(folder / f"{name}.h5")
        except OSError as error:
            said[name] = error.strerror
    return said


def test_every_writer_says_that_there_is_no_room(tmp_path):
    done = subprocess.run([sys.executable, "-m", __name__, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(WRITERS, "File too large")


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "label"])
def test_what_was_reserved_was_enough_and_is_given_back(tmp_path, name, monkeypatch):
    asked = {}
    fallocate = os.posix_fallocate

    def seen(descriptor, offset, size):
        asked[os.readlink(f"/proc/self/fd/{descriptor}")] = size
        fallocate(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", seen)
    path = tmp_path / f"{name}.h5"
    WRITERS[name](path)
    assert path.stat().st_size <= asked[str(path)]
    with h5py.File(path) as f:
        names = []
        f.visit(names.append)
        data = sum(f[name].id.get_storage_size() for name in names if isinstance(f[name], h5py.Dataset))
    assert 512 * path.stat().st_blocks < 1.2 * data + 50_000


def test_text_counts_with_its_letters(tmp_path):
    texts = ["x" * 100_000, "ü" * 50_000]
    assert 200_000 < size_of(texts) < 201_000
    path = tmp_path / "a.h5"
    with created(path, size_of(texts, NOISE)) as f:
        f.create_dataset("text", data=texts, dtype=h5py.string_dtype())
        f["noise"] = NOISE
    assert NOISE.nbytes + 200_000 < path.stat().st_size < NOISE.nbytes + 300_000


if __name__ == "__main__":
    print(json.dumps(limited(Path(sys.argv[1]))))
