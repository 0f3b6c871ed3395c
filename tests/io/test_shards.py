from dataclasses import fields

import h5py
import numpy as np
import pytest

from lenspipe.errors import LenspipeError
from lenspipe.infer.noise import sigma_map
from lenspipe.io import shards
from lenspipe.io.mend import Raw, cutout, gaussian
from lenspipe.types import Masks


def make(name, **change):
    rng = np.random.default_rng(len(name))
    image = rng.normal(size=(2, 21, 23))
    raw = Raw(name, "x", ("g", "r"), image, 0.2, psf=[gaussian(3.0, 9)], zero_point=np.array(30.0), **change)
    return cutout(raw, sigma_map)


def same(a, b):
    for item in fields(a):
        left, right = getattr(a, item.name), getattr(b, item.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f"), (
                item.name
            )
        else:
            assert left == right or (left != left and right != right), item.name


def test_cutouts_labels_and_columns_come_back(tmp_path):
    cutouts = [make("a", cd=np.eye(2), ra=1.0, dec=2.0, unit="nJy"), make("bb", unit="nJy", notes=["mended", "twice"])]
    label = np.arange(2 * 21 * 23, dtype=np.uint8).reshape(2, 21, 23) % 4
    table = {
        "kind": np.array(["spiral", "ü"]),
        "is_lens": np.array([True, False]),
        "true_theta_E": np.array([1.2, np.nan]),
    }
    shards.write(tmp_path / "s.h5", cutouts, shards.Extra(label, table, {"true_theta_E": "arcsec"}))
    with shards.Shard(tmp_path / "s.h5") as shard:
        assert shard.ids == ["a", "bb"] and len(shard) == 2
        for row, each in enumerate(cutouts):
            same(each, shard.cutout(row))
        assert (shard.labels() == label).all() and shard.masks(0) is None
        assert shard.table()["kind"].tolist() == ["spiral", "ü"] and shard.units()["true_theta_E"] == "arcsec"
        assert shard.table()["is_lens"].dtype == bool


def test_bundle(tmp_path):
    masks = Masks(np.full((4, 21, 23), 0.25, np.float32), "photutils")
    made = make("a")
    shards.write_bundle(tmp_path / "b.h5", made, masks, shards.Extra(table={"n": np.array([3])}))
    found, found_masks, estimate, columns = shards.read_bundle(tmp_path / "b.h5")
    assert estimate is None
    same(made, found)
    assert (found_masks.probability == 0.25).all() and found_masks.origin == "photutils" and columns == {"n": 3}


@pytest.mark.parametrize("name", ["image", "psf", "label"])
def test_a_shard_with_a_truncated_dataset_is_named(tmp_path, name):
    shards.write(tmp_path / "s.h5", [make("a"), make("bb")], shards.Extra(np.zeros((2, 21, 23), np.uint8)))
    with h5py.File(tmp_path / "s.h5", "a") as f:
        whole = f[name][:]
        del f[name]
        f[name] = whole[:1]
    with pytest.raises(LenspipeError, match=rf"s\.h5: {name} holds 1 of 2 objects"):
        shards.Shard(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "a") as f:
        del f["image"]
    with pytest.raises(LenspipeError, match=r"s\.h5: image holds 0 of 2 objects"):
        shards.Shard(tmp_path / "s.h5")


def test_a_damaged_shard_is_named(tmp_path):
    shards.write(tmp_path / "s.h5", [make("a")])
    (tmp_path / "t.h5").write_bytes((tmp_path / "s.h5").read_bytes()[:2000])
    with pytest.raises(LenspipeError, match=r"t\.h5"):
        shards.Shard(tmp_path / "t.h5")
