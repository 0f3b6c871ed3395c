import numpy as np
import pyarrow.parquet as pq
import pytest

from lenspipe.errors import LenspipeError
from lenspipe.io.catalogue import read_ecsv, write_ecsv, write_parquet
from lenspipe.io.masks import read_masks, write_masks

COLUMNS = {
    "key": ["000001", "916084062"],
    "theta_E": [1.5, None],
    "is_lens": [True, None],
    "ess_min": [600, None],
    "detail": ["", 'two\nlines, "quoted"'],
    "nothing": [None, None],
}
UNITS = {"theta_E": "arcsec", "ess_min": ""}


def test_ecsv_keeps_text_units_and_what_is_missing(tmp_path):
    write_ecsv(tmp_path / "t.ecsv", COLUMNS, UNITS)
    found = read_ecsv(tmp_path / "t.ecsv")
    assert found["key"].tolist() == ["000001", "916084062"]
    assert found["theta_E"].unit == "arcsec" and np.isnan(found["theta_E"][1])
    assert found["is_lens"].tolist() == [True, None]
    assert found["detail"].tolist() == ["", 'two; lines, "quoted"']
    assert np.isnan(found["nothing"]).all()


def test_parquet_keeps_units_and_what_is_missing(tmp_path):
    write_parquet(tmp_path / "t.parquet", COLUMNS, UNITS)
    found = pq.read_table(tmp_path / "t.parquet")
    assert found.schema.field("theta_E").metadata == {b"unit": b"arcsec"}
    assert found["is_lens"].to_pylist() == [True, None]
    assert found["key"].to_pylist() == ["000001", "916084062"]


def test_not_a_table(tmp_path):
    (tmp_path / "t.ecsv").write_text("# %ECSV 1.0\n# ---\n# datatype: 3\n")
    with pytest.raises(LenspipeError, match=r"t\.ecsv"):
        read_ecsv(tmp_path / "t.ecsv")
    with pytest.raises(LenspipeError, match=r"no\.ecsv"):
        read_ecsv(tmp_path / "no.ecsv")


def test_masks_round_trip(tmp_path):
    probability = np.random.default_rng(0).dirichlet(np.ones(4), (2, 6, 5)).transpose(0, 3, 1, 2)
    write_masks(tmp_path / "m.h5", ["a", "b"], probability, "photutils")
    ids, found, origin = read_masks(tmp_path / "m.h5")
    assert ids == ["a", "b"] and origin == "photutils" and found.dtype == np.float32
    assert found == pytest.approx(probability, abs=1e-3)
    with pytest.raises(ValueError, match="shape"):
        write_masks(tmp_path / "n.h5", ["a"], probability, "x")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "m.h5").read_bytes()[:900])
    with pytest.raises(LenspipeError, match=r"cut\.h5"):
        read_masks(tmp_path / "cut.h5")
