import errno
import os

import h5py
import numpy as np
import pytest

from lenspipe.io.room import reserve


def test_hdf5_uses_what_is_reserved_and_gives_the_rest_back(tmp_path):
    path, images = tmp_path / "a.h5", np.random.default_rng(0).normal(size=(20, 30, 30))
    with h5py.File(path, "w", libver="v110") as f:
        f.create_dataset("image", images.shape, chunks=(1, 30, 30), dtype="f8")
    small = path.stat().st_size
    reserve(path, 2 * images.nbytes)
    assert path.stat().st_size == 2 * images.nbytes > small
    assert 512 * path.stat().st_blocks >= 2 * images.nbytes
    with h5py.File(path, "r+", libver="v110") as f:
        f["image"][:] = images
        f["more"] = np.arange(5)
    assert images.nbytes < path.stat().st_size < 1.2 * images.nbytes
    with h5py.File(path) as f:
        assert np.array_equal(f["image"][:], images) and f["more"][4] == 4


def test_no_room_is_an_error_at_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        reserve(tmp_path / "a", 10)
