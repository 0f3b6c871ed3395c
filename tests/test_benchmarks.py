"""What the calibration's figures are made of: draws from the priors, coverage, ranks, the limit on silent failures."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra: pip install 'lenspipe[bench]'")


def loaded(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    # A dataclass looks its module up by name.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recovery():
    return loaded("recovery")


@pytest.fixture(scope="module")
def gpu_fit(recovery):
    return loaded("gpu_fit")


def two_runs(ess=400, shift=0.0, width=1.0):
    """What is kept of two runs' draws from one posterior of 200 parameters, the second's off by that."""
    rng = np.random.default_rng(4)
    draws = rng.normal(size=(2, ess, 200))
    draws[1] = shift + width * draws[1]
    summary = {"status": "good", "reasons": [], "ess": np.full(200, ess).tolist()}
    return tuple({**summary, "mean": d.mean(0).tolist(), "sigma": d.std(0).tolist()} for d in draws)


def test_two_runs_of_one_sampler_agree_within_their_errors(gpu_fit):
    found = gpu_fit.agreement([two_runs()])
    assert found["same_verdicts"] == found["same_reasons"] == 1
    assert 0.85 < found["shift_rms"] < 1.15 and 0.85 < found["width_rms"] < 1.15
    assert found["shift_max"] < 4 and found["width_max"] < 4


def test_other_posteriors_do_not(gpu_fit):
    assert gpu_fit.agreement([two_runs(shift=0.2)])["shift_rms"] > 2
    assert gpu_fit.agreement([two_runs(width=1.1)])["width_rms"] > 2
    one, other = two_runs()
    found = gpu_fit.agreement([(one, other), (one, {**other, "status": "suspect", "reasons": ["arc_faint"]})])
    assert found["same_verdicts"] == found["same_reasons"] == 0.5


def test_mixed_candidates_are_mixed(gpu_fit):
    cutouts = [gpu_fit.mixed(i, 1)[0] for i in range(8)]
    assert {len(c.bands) for c in cutouts} == {1, 2, 3}
    assert len({c.shape for c in cutouts}) > 2
    assert {bool(np.isfinite(c.psf_fwhm).all()) for c in cutouts} == {True, False}
    assert {bool(np.isfinite(c.background_rms).all()) for c in cutouts} == {True, False}
    for cutout in cutouts:
        assert cutout.image.shape == cutout.sigma.shape == cutout.valid.shape
        assert len(cutout.psf) == len(cutout.bands) == len(cutout.zero_point)


def lines(recovery, count, width=1.0, **theta_E):
    """Fits whose truths lie where posteriors of `width` times their true width put them."""
    rng = np.random.default_rng(1)
    result = []
    for i in range(count):
        parameters = {}
        for name in recovery.GATED:
            centre = rng.normal()
            draws = centre + width * rng.normal(size=999)
            few = centre + width * rng.normal(size=recovery.RANKED)
            parameters[name] = {
                "median": centre,
                "sigma": width,
                "below": float((draws < 0).mean()),
                "rank": int((few < 0).sum()),
            }
        parameters["theta_E"] |= theta_E
        truth = dict.fromkeys(recovery.GATED, 0.0)
        result.append({"index": i, "status": "good", "reasons": [], "parameters": parameters, "truth": truth,
                       "cpu_seconds": 1.0})  # fmt: skip
    return result


def test_calibrated_posteriors_pass(recovery):
    found = recovery.figures(lines(recovery, 1000))
    assert all(0.64 < value < 0.72 for value in found["coverage68"].values())
    assert all(0.93 < value < 0.97 for value in found["coverage95"].values())
    assert found["sbc_p_min"] > 1e-3
    assert found["good_fraction"] == 1
    assert found["silent_failures"] == sum(
        abs(line["parameters"]["theta_E"]["median"]) > 3 for line in lines(recovery, 1000)
    )


def test_too_narrow_ones_do_not(recovery):
    found = recovery.figures(lines(recovery, 1000, width=0.7))
    assert all(value < 0.6 for value in found["coverage68"].values())
    assert found["sbc_p_min"] < 1e-6


def test_wrong_means_by_sigma_and_by_share(recovery):
    (line,) = lines(recovery, 1, median=1.2, sigma=0.01)
    for truth, wrong in ((1.0, True), (1.15, False), (1.199, False)):
        line["truth"]["theta_E"] = truth
        assert recovery.is_wrong(line) == wrong
    line["parameters"]["theta_E"]["sigma"] = 0.1
    line["truth"]["theta_E"] = 1.0
    assert not recovery.is_wrong(line)


def test_limit_on_a_rate_never_seen(recovery):
    assert recovery.upper95(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert recovery.upper95(3, 3) == 1


def test_draws_follow_the_priors(recovery):
    rng = np.random.default_rng(3)
    draws = np.array([recovery.from_priors(rng) for _ in range(1500)])
    column = dict(zip(recovery.SCENE.names, draws.T))
    assert np.log(column["theta_E"]).mean() == pytest.approx(np.log(0.8 * 3.0) / 2, abs=0.04)
    assert np.log(column["source_R_sersic"]).std() == pytest.approx(0.3, abs=0.02)
    # Two normals of width s, their difference held to t, leave a difference of width (1 / (2 s^2) + 1 / t^2)^(-1/2).
    expected = (1 / (2 * 0.15**2) + 1 / 0.1**2) ** -0.5
    assert (column["e1"] - column["lens_light_e1"]).std() == pytest.approx(expected, rel=0.06)


def test_resuming_passes_over_a_line_that_was_cut_off(recovery, tmp_path):
    kept = {"variant": "as modelled", "index": 0, "seed": 1, "masks": False}
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps(kept) + "\n" + json.dumps({**kept, "seed": 2}) + "\n" + json.dumps(kept)[:20])
    assert recovery.read(path, 1, False) == [kept]


def test_a_drawn_lens_is_what_the_fit_models(recovery):
    truth = recovery.draw(np.random.default_rng(5), "as modelled")
    cutout = recovery.observe(truth, np.random.default_rng(6), "as modelled")
    variance = truth.rms[:, None, None] ** 2 + truth.layers.sum(0) / truth.gain[:, None, None]
    residual = (cutout.image - truth.layers.sum(0)) / np.sqrt(variance)
    assert residual.std() == pytest.approx(1, abs=0.04)
    steep = recovery.draw(np.random.default_rng(5), "slope")
    np.testing.assert_array_equal(steep.layers[1], truth.layers[1])
    assert not np.allclose(steep.layers[0], truth.layers[0], rtol=0.05, atol=0.05)
    # The power law of slope 2 is the isothermal one.
    recovery.SLOPE, old = 2.0, recovery.SLOPE
    same = recovery.draw(np.random.default_rng(5), "slope")
    recovery.SLOPE = old
    # Averaged over fewer subpixels, yet to a tenth of the noise.
    np.testing.assert_allclose(same.layers[0], truth.layers[0], rtol=0, atol=0.1 * truth.rms.min())
