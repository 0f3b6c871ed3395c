"""The stage `model`: the same candidate comes out the same in any batch, and after its process was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lenspipe.io.posterior import read_posterior
from lenspipe.io.shards import read_bundle, write_bundle
from lenspipe.stages import model
from tests.infer.mock import TRUTH
from tests.infer.test_foreign import CORE
from tests.stages.fitting import bundles, fit


def chains(folder):
    return read_posterior(folder / "posterior.h5").samples


def begin(out, inputs):
    command = [sys.executable, "-m", "tests.stages.fitting", str(out), *map(str, inputs.values())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps_kept(path):
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["chains/u"].shape[1]
    except (OSError, KeyError):
        return 0


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A bundle and the posterior of an uninterrupted fit of it."""
    folder = tmp_path_factory.mktemp("one")
    inputs = bundles(folder, "a")
    assert fit(inputs, folder / "out") == {"failed": {}}
    return inputs, folder / "out" / "a"


def test_a_candidate_comes_out_the_same_in_any_batch(one, tmp_path):
    _, alone = one
    assert fit(bundles(tmp_path, "c", "a", "b"), tmp_path / "out") == {"failed": {}}
    np.testing.assert_array_equal(chains(tmp_path / "out" / "a"), chains(alone))
    assert not np.array_equal(chains(tmp_path / "out" / "b"), chains(alone))


def test_a_killed_fit_goes_on_from_its_chains_to_the_same_result(one, tmp_path):
    inputs, whole = one
    checkpoint = tmp_path / ".a.checkpoint.npz"
    process = begin(tmp_path, inputs)
    while steps_kept(checkpoint) < 100:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = steps_kept(checkpoint)
    assert 100 <= kept < 320 and not (tmp_path / "a").exists()

    again, errors = begin(tmp_path, inputs).communicate()
    evaluated = json.loads(again.splitlines()[-1])["evaluated"]
    total = json.loads((whole / "fit.json").read_text())["n_evaluations"]
    # What was left of the sampling, and a few for the Laplace approximation and the last polish.
    assert (320 - kept) * 160 <= evaluated < total - kept * 100, errors
    np.testing.assert_array_equal(chains(tmp_path / "a"), chains(whole))
    assert json.loads((tmp_path / "a" / "fit.json").read_text())["n_evaluations"] == total
    assert not list(tmp_path.glob(".a.*"))


def test_a_checkpoint_of_other_options_is_passed_over(one, tmp_path, caplog):
    inputs, _ = one
    process = begin(tmp_path, inputs)
    while steps_kept(tmp_path / ".a.checkpoint.npz") < 10:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with caplog.at_level("INFO"):
        fit(inputs, tmp_path, {"sampler": {"burn": 10, "min_steps": 20, "max_steps": 20}})
    assert "another configuration" in caplog.text
    assert chains(tmp_path / "a").shape[1] == 20 * 40


def test_candidates_of_a_task_are_fitted_together(tmp_path, caplog):
    short = {"together": 2, "device": "cuda", "sampler": {"burn": 20, "min_steps": 40, "max_steps": 40}}
    inputs = bundles(tmp_path, "a", "b")
    broken = tmp_path / "c.h5"
    inputs["c"] = broken
    cutout, masks, *_ = read_bundle(inputs["a"])
    empty = replace(masks, probability=np.eye(4, dtype=np.float32)[3][:, None, None] + 0 * masks.probability)
    write_bundle(broken, replace(cutout, id="c"), empty)
    failed = fit(inputs, tmp_path / "out", short)["failed"]
    assert list(failed) == ["c"] and failed["c"]["reason"] == "no_lens_found"
    for name in "ab":
        summary = json.loads((tmp_path / "out" / name / "fit.json").read_text())
        assert abs(summary["parameters"]["theta_E"]["median"] - TRUTH["theta_E"]) < 0.15
    if not torch.cuda.is_available():
        assert "model.device: cuda, and torch sees no GPU" in caplog.text


@pytest.mark.parametrize("together", [1, 2])
def test_what_the_search_makes_suspect_is_sampled_for_a_shorter_time(tmp_path, together):
    own = tmp_path / "candidates.yaml"
    own.write_text(yaml.safe_dump({"a": {"verdict": {"arc_signal": 1e6}}}))
    sampler = {"burn": 5, "min_steps": 10, "check_every": 10, "max_steps": 60, "max_steps_suspect": 20, "taus": 1e6}
    options = {"sampler": sampler, "candidates": str(own), "together": together}
    assert fit(bundles(tmp_path, "a", "b"), tmp_path / "out", options) == {"failed": {}}
    fits_of = {name: json.loads((tmp_path / "out" / name / "fit.json").read_text()) for name in "ab"}
    codes = {name: {reason["code"] for reason in found["reasons"]} for name, found in fits_of.items()}
    assert codes == {"a": {"arc_faint", "not_converged"}, "b": {"not_converged"}}
    steps = {name: chains(tmp_path / "out" / name).shape[1] // 40 for name in "ab"}
    assert 20 <= steps["a"] < 30 and 60 <= steps["b"] < 70


@pytest.mark.parametrize("together", [1, 2])
def test_others_do_not_wait_for_a_candidate_of_lenstronomys(tmp_path, caplog, together):
    own = tmp_path / "candidates.yaml"
    own.write_text(yaml.safe_dump({"b": CORE, "d": CORE}))
    brief = {"sampler": {"burn": 5, "min_steps": 10, "max_steps": 10}, "candidates": str(own), "together": together}
    with caplog.at_level("INFO"):
        assert fit(bundles(tmp_path, "b", "a", "d", "c"), tmp_path / "out", brief) == {"failed": {}}
    said = [record.getMessage() for record in caplog.records]
    ended = [i for i, line in enumerate(said) if line.startswith(("a: suspect in", "c: suspect in"))]
    assert len(ended) == 2 and max(ended) < said.index("b: fitting")
    assert json.loads((tmp_path / "out" / "d" / "fit.json").read_text())["engine"] == "lenstronomy"
    assert fit(bundles(tmp_path, "d"), tmp_path / "alone", brief) == {"failed": {}}
    np.testing.assert_array_equal(chains(tmp_path / "out" / "d"), chains(tmp_path / "alone" / "d"))


def test_such_a_candidate_is_a_task_of_its_own(tmp_path):
    own = tmp_path / "candidates.yaml"
    own.write_text(yaml.safe_dump({"a": {"redshifts": [0.3, 1.0]}, "b": CORE, "c": {"preset": "reference"}}))
    apart = model.STAGE.own.apart
    assert apart(model.ModelConfig(candidates=own)) == {"b", "c"}
    assert apart(model.ModelConfig(candidates=own, engine="lenstronomy")) == apart(model.ModelConfig()) == frozenset()


def test_a_gpu_that_was_given_and_is_not_seen_is_said(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert model._device(model.ModelConfig()) == "cpu"
    assert "GPU 3 is this worker's, and torch sees no GPU" in caplog.text
    caplog.clear()
    # What cannot use one, and a worker that has been given none, say nothing.
    assert model._device(model.ModelConfig(engine="kernel")) == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert model._device(model.ModelConfig()) == "cpu"
    assert not caplog.text


def test_compiled_code_is_kept_for_all_runs_of_a_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Set first, so that it is put back.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    model._keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    model._keep_compiled()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path / "lenspipe"


@pytest.mark.parametrize(("text", "value"), [("on", True), ("off", False), ("auto", "auto")])
def test_compile_is_said_in_yaml(text, value):
    assert model.ModelConfig.model_validate(yaml.safe_load(f"compile: {text}")).compile == value


def test_the_largest_image_decides_how_many_fit(tmp_path):
    paths = bundles(tmp_path, "a")
    cutout = read_bundle(paths["a"])[0]
    small = replace(cutout, **{n: getattr(cutout, n)[:, :21, :25] for n in ("image", "sigma", "valid")})
    write_bundle(tmp_path / "small.h5", small, None)
    assert model._largest([tmp_path / "small.h5", paths["a"]]) == (3, cutout.shape)
