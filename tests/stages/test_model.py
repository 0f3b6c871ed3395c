"""The stage `model`: the same candidate comes out the same in any batch, and after its process was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from lenspipe.io.posterior import read_posterior
from lenspipe.io.shards import read_bundle, write_bundle
from tests.infer.mock import TRUTH
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
    cutout, masks, _ = read_bundle(inputs["a"])
    empty = replace(masks, probability=np.eye(4, dtype=np.float32)[3][:, None, None] + 0 * masks.probability)
    write_bundle(broken, replace(cutout, id="c"), empty)
    failed = fit(inputs, tmp_path / "out", short)["failed"]
    assert list(failed) == ["c"] and failed["c"]["reason"] == "no_lens_found"
    for name in "ab":
        summary = json.loads((tmp_path / "out" / name / "fit.json").read_text())
        assert abs(summary["parameters"]["theta_E"]["median"] - TRUTH["theta_E"]) < 0.15
    if not torch.cuda.is_available():
        assert "model.device: cuda, and torch sees no GPU" in caplog.text
