import h5py
import numpy as np
import pytest

from lenspipe.label.masks import label as masks
from lenspipe.stages import label


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
    result = label.run(config, {"layers": tmp_path / "layers.h5"}, {"labels": tmp_path / "labels.h5"}, 0)
    expected = masks(layers["source"], layers["lens"], layers["others"], np.ones((7, 2)), 1.5)
    with h5py.File(tmp_path / "labels.h5") as f:
        assert list(f["id"].asstr()[:]) == ids
        assert f["label"].dtype == np.uint8
        assert np.array_equal(f["label"][:], expected)
        assert list(f.attrs["classes"]) == ["source", "lens", "noise", "background"]
    assert result["figures"]["fraction_source"] == pytest.approx(np.mean(expected == 0), abs=1e-4)
    assert sum(result["figures"].values()) == pytest.approx(1, abs=1e-3)
