import json

import h5py
import numpy as np
import pytest
from PIL import Image

from lenspipe.label.masks import label as masks
from lenspipe.stages import label


def outputs(folder):
    return {"labels": folder / "labels.h5", "label_sheet": folder / "labels.png"}


def test_labels_every_object_and_tells_the_fractions(tmp_path):
    rng = np.random.default_rng(0)
    layers = {name: rng.exponential(1.0, (7, 2, 9, 9)).astype(np.float32) for name in ("source", "lens", "others")}
    ids = [f"SIM{i}" for i in range(7)]
    with h5py.File(tmp_path / "layers.h5", "w") as f:
        f.create_dataset("id", data=ids, dtype=h5py.string_dtype())
        for name, data in layers.items():
            f[name] = data
        f["sky_rms"] = np.ones((7, 2))
    config = label.LabelConfig(threshold=1.5)
    result = label.run(config, {"layers": tmp_path / "layers.h5"}, outputs(tmp_path), 0)
    expected = masks(layers["source"], layers["lens"], layers["others"], np.ones((7, 2)), 1.5)
    with h5py.File(tmp_path / "labels.h5") as f:
        assert list(f["id"].asstr()[:]) == ids
        assert f["label"].dtype == np.uint8
        assert np.array_equal(f["label"][:], expected)
        assert list(f.attrs["classes"]) == ["source", "lens", "noise", "background"]
    assert result["figures"]["fraction_source"] == pytest.approx(np.mean(expected == 0), abs=1e-4)
    fractions = [value for name, value in result["figures"].items() if name.startswith("fraction_")]
    assert sum(fractions) == pytest.approx(1, abs=1e-3)
    assert result["figures"]["images_with_source"] == (expected == 0).any((1, 2)).sum()
    with Image.open(tmp_path / "labels.png") as sheet:
        assert sheet.width > 7 * 96 and sheet.height > 2 * 96


def test_the_sheet_shows_lenses_and_every_other_kind():
    kinds = ["ring", "lens", "spiral", "spiral", "lens", "spiral", "lens", "spiral", "lens"]
    assert label.chosen(kinds, 4) == [1, 4, 0, 2]
    assert label.chosen(kinds, 6) == [1, 4, 6, 0, 2, 3]
    assert label.chosen(kinds, 50) == [1, 4, 6, 8, 0, 2, 3, 5, 7]
    assert label.chosen(["spiral", "ring"], 1) == [1]
    assert label.chosen(["lens"] * 3, 2) == [0, 1]


@pytest.mark.parametrize("rule", ["quantile", "reference"])
def test_the_other_rules(rule, tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "layers.h5", "w") as f:
        f.create_dataset("id", data=["a", "b"], dtype=h5py.string_dtype())
        for name in ("source", "lens", "others"):
            f[name] = rng.exponential(1.0, (2, 2, 21, 21)).astype(np.float32)
        f["sky_rms"] = np.ones((2, 2))
    label.run(label.LabelConfig(rule=rule), {"layers": tmp_path / "layers.h5"}, outputs(tmp_path), 0)
    with h5py.File(tmp_path / "labels.h5") as f:
        assert f["label"].shape == (2, 21, 21) and len(np.unique(f["label"][:])) > 2
        assert json.loads(f.attrs["config"])["rule"] == rule
