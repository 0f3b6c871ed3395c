import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from lenspipe.io.catalogue import read_ecsv, write_ecsv
from lenspipe.products import MODEL
from lenspipe.stages import collect


def fit(name, theta, width=0.01, status="good", **change):
    value = {"median": theta, "mean": theta, "sigma": width, "unit": "arcsec"}
    value |= {"p16": theta - width, "p84": theta + width, "p025": theta - 2 * width, "p975": theta + 2 * width}
    reasons = [] if status == "good" else [{"code": "not_converged", "sentence": "It did not converge."}]
    return {
        "id": name,
        "status": status,
        "reasons": reasons,
        "sampler_converged": status == "good",
        "parameters": {"theta_E": value},
        "derived": {"pa": {**dict.fromkeys(value), "unit": "deg"}},
        "reduced_chi2": 1.01,
        "chi2_arc": None,
        "ess_min": 900.0,
        "rhat_max": 1.003,
        "n_evaluations": 12345,
        "seconds": 7.5,
        "engine": "torch",
        "device": "cpu",
        "notes": ["mended", "twice"],
        "versions": {"lenspipe": "0.1.0"},
        "seed": 3,
        **change,
    }


class Done:
    def __init__(self, folder, candidates, fits, failures=None, intake=None):
        names = list(candidates["key"])
        intake = intake or {
            "id": [*names, "bad+2"],
            "shard": ["000000"] * (len(names) - 1) + ["000001", ""],
            "status": ["ok"] * len(names) + ["failed"],
            "reason": [""] * len(names) + ["image_constant"],
            "detail": [""] * len(names) + ["bad.fits: every usable pixel of band g is 3."],
            "notes": ["came well"] * (len(names) + 1),
            "ra": [10.0] * len(names) + [None],
            "dec": [-5.0] * len(names) + [None],
        }
        write_ecsv(folder / "intake.ecsv", intake, {"ra": "deg", "dec": "deg"})
        write_ecsv(folder / "candidates.ecsv", candidates, {"true_theta_E": "arcsec"})
        (folder / "failures.json").write_text(json.dumps(failures or {}))
        models = {}
        for name, content in fits.items():
            models[name] = folder / MODEL.at(name)
            models[name].mkdir(parents=True)
            (models[name] / "fit.json").write_text(json.dumps(content))
        outputs = {p.name: folder / p.path for p in collect.STAGE.outputs}
        inputs = {"model": models, "failures": folder / "failures.json"}
        inputs |= {name: folder / f"{name}.ecsv" for name in ("intake", "candidates")}
        self.returned = collect.STAGE.run(collect.CollectConfig(), inputs, outputs, 0)["figures"]
        self.figures = json.loads(outputs["figures"].read_text())
        self.table = read_ecsv(outputs["lenses"])
        self.rows = {row["id"]: row for row in self.table}
        self.parquet = pq.read_table(outputs["lenses_parquet"])


@pytest.fixture
def done(tmp_path):
    candidates = {
        "key": ["d", "a", "b", "c", "e", "f", "g"],
        "selected": [True, True, True, True, True, False, False],
        "masks_origin": ["net"] * 6 + [""],
        "is_lens": [True, True, True, False, True, True, False],
        "true_theta_E": [1.2, 1.5, 2.0, None, 1.0, 1.1, None],
    }
    fits = {
        "a": fit("a", 1.51),
        "b": fit("b", 2.1, status="suspect"),
        "c": fit("c", 0.8, status="suspect"),
        "d": fit("d", 1.2, parameters={"theta_E": fit("d", 1.2)["parameters"]["theta_E"], "e1": {
            "median": 0.1, "p16": 0.0, "p84": 0.2, "sigma": 0.1, "mean": 0.1, "unit": ""}}),
    }  # fmt: skip
    failures = {
        "convert": {"bad+2": {"reason": "image_constant", "detail": "bad.fits: ..."}},
        "segment": {"000001": {"reason": "task_crashed", "detail": "the worker died."}},
        "model": {"e": {"reason": "time_limit", "detail": "30 minutes."}},
    }
    return Done(tmp_path, candidates, fits, failures)


def test_a_row_for_each_that_was_selected_or_failed(done):
    assert list(done.table["id"]) == ["a", "b", "bad+2", "c", "d", "e", "g"]
    status = {name: row["status"] for name, row in done.rows.items()}
    assert status == {
        "a": "good", "b": "suspect", "bad+2": "failed", "c": "suspect", "d": "good", "e": "failed", "g": "failed",
    }  # fmt: skip
    assert {n: done.rows[n]["reasons"] for n in ("a", "b", "bad+2", "e", "g")} == {
        "a": "", "b": "not_converged", "bad+2": "image_constant", "e": "time_limit", "g": "task_crashed",
    }  # fmt: skip
    assert done.rows["e"]["detail"] == "model: 30 minutes." and "band g is 3" in done.rows["bad+2"]["detail"]


def test_values_units_and_what_is_missing(done):
    row = done.rows["a"]
    assert (row["theta_E"], row["theta_E_p16"], row["theta_E_sigma"]) == pytest.approx((1.51, 1.5, 0.01))
    assert done.table["theta_E_p84"].unit == "arcsec" and done.table["seconds"].unit == "s"
    assert np.isnan([row["e1"], row["pa"], done.rows["e"]["theta_E"], done.rows["bad+2"]["ra"]]).all()
    assert (row["ra"], row["true_theta_E"], row["masks_origin"], row["ess_min"]) == (10.0, 1.5, "net", 900)
    assert row["folder"] == MODEL.at("a") and done.rows["e"]["folder"] == ""
    assert row["notes"] == "mended; twice" and json.loads(row["versions"]) == {"lenspipe": "0.1.0"}
    assert done.parquet.num_rows == 7 and done.parquet.column_names == done.table.colnames
    assert done.parquet.schema.field("theta_E").metadata == {b"unit": b"arcsec"}


def test_figures(done):
    errors = [0.01 / 1.5, 0.1 / 2.0, 0.0]
    assert (
        done.figures
        == done.returned
        == {
            "n": 3,
            "good": pytest.approx(2 / 3),
            "status": {"failed": 3, "good": 2, "suspect": 2},
            "n_truth": 3,
            "theta_e_median_rel_error": pytest.approx(np.median(errors)),
            "theta_e_coverage95": pytest.approx(2 / 3),
            "theta_e_outside95": ["b"],
            "nonlenses_modelled": 1,
            "lenses_lost": 1,
            "nonlenses_through": 1,
        }
    )


def test_real_candidates_without_truth(tmp_path):
    candidates = {"key": ["x", "y"], "selected": [True, True], "masks_origin": ["photutils"] * 2}
    done = Done(tmp_path, candidates, {"x": fit("x", 1.0)})
    assert done.figures["n"] == 1 and done.figures["good"] == 1.0 and done.figures["n_truth"] == 0
    assert done.figures["theta_e_median_rel_error"] is None and done.figures["lenses_lost"] is None
    assert done.rows["y"]["status"] == "failed" and done.rows["y"]["reasons"] == "internal_error"


def test_nothing_was_modelled(tmp_path):
    done = Done(tmp_path, {"key": ["x", "y"], "selected": [False, False], "masks_origin": ["net"] * 2}, {})
    assert list(done.table["id"]) == ["bad+2"] and done.figures["n"] == 0 and done.figures["good"] is None
    assert done.rows["bad+2"]["versions"] == "" and str(done.parquet.schema.field("engine").type) == "string"
