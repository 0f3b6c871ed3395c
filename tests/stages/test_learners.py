"""The stages that simulate for learners, from the plan to the sheets."""

import json

import h5py
import numpy as np
import pytest

from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.io.catalogue import read_ecsv
from lenspipe.io.samples import read_samples
from lenspipe.stages import contact, get, plan

SUBSTRUCTURE = get("simulate_substructure")
SMALL = {
    "simulate_substructure": {
        "survey": {"preset": "euclid", "bands": ["VIS"], "n_pixels": 32},
        "supersampling": 1,
        "lenses": {"subhaloes": {"mass": [1e9, 1e10]}},
    },
    "simulate_supernovae": {"survey": {"preset": "des_deep", "n_pixels": 31}, "supersampling": 1},
    "simulate_discs": {"telescope": {"n_pixels": 64, "pixel_scale": 0.03, "beam": [0.1, 0.15]}},
}


def run(stage, path, keys, seed=3, **options):
    path.mkdir(exist_ok=True)
    outputs = {key: path / f"{key}.h5" for key in keys}
    config = parse(stage.config, {**SMALL[stage.name], **options}, stage.name)
    return stage.run(config, {}, {"samples": outputs}, seed), outputs


def test_a_longer_plan_keeps_the_parts_of_a_shorter_one(tmp_path):
    keys = []
    for n in (20, 45):
        plan.run(plan.PlanConfig(n=n, per_part=10), {}, {"parts": tmp_path / "parts.ecsv"}, 0)
        table = read_ecsv(tmp_path / "parts.ecsv")
        assert sum(table["n"]) == n
        keys.append(list(table["key"]))
    assert keys[0] == keys[1][:2]


@pytest.mark.parametrize("name", SMALL)
def test_samples_hold_everything_and_do_not_depend_on_their_part(tmp_path, name):
    stage = get(name)
    _, whole = run(stage, tmp_path / "a", ["00000000-00000007"])
    result, parts = run(stage, tmp_path / "b", ["00000000-00000003", "00000004-00000007"])
    together = read_samples(whole["00000000-00000007"])
    apart = [read_samples(path) for path in parts.values()]
    assert together.id == apart[0].id + apart[1].id
    joined = type(together).join(apart)
    assert np.array_equal(joined.label, together.label)
    scale = float(np.abs(together.image).max())
    assert joined.image == pytest.approx(together.image, rel=1e-4, abs=1e-4 * scale)
    for column, values in together.truth.items():
        assert joined.truth[column] == pytest.approx(values, rel=1e-5, nan_ok=True), column
    for column, values in together.members.items():
        assert joined.members[column] == pytest.approx(values, rel=1e-5), column
    counts = np.bincount(together.label, minlength=len(together.classes))
    assert counts.max() - counts.min() <= 1
    assert sum(result["figures"]["00000004-00000007"].values()) == 4
    with h5py.File(whole["00000000-00000007"]) as f:
        assert json.loads(f.attrs["config"])["classes"] == list(together.classes)
        assert json.loads(f.attrs["versions"])["torch"]
        assert f.attrs["seed"] == "3"
        assert all("unit" in f[f"truth/{column}"].attrs for column in f["truth"])


@pytest.mark.parametrize("name", SMALL)
def test_unknown_classes_and_empty_ones_are_refused(name):
    config = get(name).config
    known = config().classes
    with pytest.raises(LenspipeError, match="there is no class 'quasar'"):
        parse(config, {"classes": [known[0], "quasar"]}, name)
    with pytest.raises(LenspipeError, match="named twice"):
        parse(config, {"classes": [known[0], known[0]]}, name)
    with pytest.raises(LenspipeError, match="classes"):
        parse(config, {"classes": []}, name)
    with pytest.raises(LenspipeError, match="prefix"):
        parse(config, {"prefix": "../x"}, name)


def test_zero_objects_are_refused():
    with pytest.raises(LenspipeError, match=r"plan\.n"):
        parse(plan.PlanConfig, {"n": 0}, "plan")


def test_a_key_that_is_no_part_is_refused(tmp_path):
    with pytest.raises(LenspipeError, match="FIRST-LAST"):
        run(SUBSTRUCTURE, tmp_path, ["a-b"])


def test_a_survey_of_several_bands_is_refused():
    with pytest.raises(LenspipeError, match=r"bands: \[VIS\]"):
        parse(SUBSTRUCTURE.config, {"survey": "euclid"}, "simulate_substructure")


def test_something_else_is_not_samples(tmp_path):
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(LenspipeError, match="not a whole HDF5 file"):
        read_samples(tmp_path / "text.h5")
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(LenspipeError, match="not samples"):
        read_samples(tmp_path / "other.h5")


@pytest.mark.parametrize("name", SMALL)
def test_contact_sheets_show_each_class(tmp_path, name):
    _, parts = run(get(name), tmp_path / "s", ["00000000-00000004", "00000005-00000009"])
    result = contact.run(contact.ContactConfig(n=2), {"samples": parts}, {"contact": tmp_path / "c"}, 0)
    classes = get(name).config().classes
    assert {path.stem for path in (tmp_path / "c").glob("*.png")} == set(classes) == set(result["figures"])
    assert set(result["figures"].values()) == {2}


@pytest.mark.parametrize("name", SMALL)
def test_rows_are_read_alone_with_their_members(tmp_path, name):
    _, parts = run(get(name), tmp_path, ["00000000-00000005"])
    path = parts["00000000-00000005"]
    whole, some = read_samples(path), read_samples(path, slice(1, 3))
    assert some.id == whole.id[1:3]
    if whole.members:
        taken = whole.take(np.array([1, 2]))
        assert all(np.array_equal(taken.members[c], some.members[c]) for c in some.members)


def test_exposures_of_a_band_that_the_survey_has_not_are_refused():
    with pytest.raises(LenspipeError, match="exposures names the band 'y'"):
        parse(get("simulate_supernovae").config, {"monitoring": {"exposures": {"y": 2}}}, "simulate_supernovae")
