"""What is said of single candidates: read strictly, drawn on the right pixels, used for them alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.infer.config import FitConfig
from lenspipe.io.posterior import read_posterior
from lenspipe.stages import overrides
from lenspipe.stages.overrides import read
from lenspipe.types import CLASSES
from tests.infer.mock import lens
from tests.stages.fitting import bundles, fit

CONFIG = FitConfig.model_validate({"priors": {"e1": {"lower": -0.3, "upper": 0.3}}, "data": {"radius": 3}})


def write(folder, text):
    path = folder / "candidates.yaml"
    path.write_text(text)
    return path


def test_an_entry_stands_over_the_options(tmp_path):
    path = write(
        tmp_path,
        """
        J1:
          priors: {theta_E: {kind: loguniform, lower: 1, upper: 2}}
          model: {lens: [SIE, SHEAR, SIE]}
          redshifts: [0.2, 0.7]
        916084062: {sampler: {rhat: 1.05}}
        """,
    )
    found = read(path, CONFIG)
    assert list(found) == ["J1", "916084062"]
    entry = found["J1"].over(CONFIG)
    assert (entry.priors["theta_E"].upper, entry.priors["e1"].upper, entry.data.radius) == (2, 0.3, 3)
    assert entry.model.lens == ("SIE", "SHEAR", "SIE") and found["J1"].entry.redshifts == (0.2, 0.7)
    assert found["916084062"].over(CONFIG).sampler.rhat == 1.05


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{prior: {}}", r"J1\.prior: unknown key; did you mean 'priors'"),
        ("{mask: {ignor: []}}", r"J1\.mask\.ignor: unknown key; did you mean 'ignore'"),
        ("{priors: {theta_E: {lower: 1, uper: 2}}}", r"uper: unknown key; did you mean 'upper'"),
        ("{redshifts: [0.7, 0.2]}", "0 < lens < source"),
        ("{mask: {arc: 'circel(0,0,1)'}}", "did you mean 'circle'"),
        ("{mask: {ignore: [none.fits]}}", r"none\.fits is not there"),
        ("3", "expected options by name"),
    ],
)
def test_mistakes_are_named_with_file_and_id(tmp_path, entry, says):
    path = write(tmp_path, f"J1: {entry}\n")
    with pytest.raises(LenspipeError, match=says) as caught:
        read(path, CONFIG)
    assert "candidates.yaml: J1" in str(caught.value)


def test_pixels_are_left_out_where_they_were_drawn(tmp_path):
    cutout, masks = lens(size=21)
    scale = cutout.pixel_scale
    image = np.zeros((21, 21), np.float32)
    image[2, 17] = 1
    fits.writeto(tmp_path / "bad.fits", image)
    (tmp_path / "a.reg").write_text("image\ncircle(5, 9, 0.9)\n")
    circle = f"circle({-6 * scale}, {4 * scale}, {scale / 2})"
    own = read(write(tmp_path, f"J1: {{mask: {{ignore: ['{circle}', bad.fits, a.reg]}}}}"), CONFIG)["J1"]
    drawn, same = own.drawn_on(cutout, masks)
    assert same is masks
    # x grows with column, y with row; the first pixel of DS9 is (1, 1).
    np.testing.assert_array_equal(np.argwhere(~drawn.valid[0]), [[2, 17], [8, 4], [14, 4]])
    assert "3 pixels are left out by hand" in drawn.notes


def test_an_arc_by_hand_replaces_the_segmented_one(tmp_path):
    cutout, masks = lens(size=21)
    own = read(write(tmp_path, "J1: {mask: {arc: ['circle(1.5, 0, 0.6)']}}"), CONFIG)["J1"]
    _, drawn = own.drawn_on(cutout, masks)
    arc = np.argwhere(drawn.of("source") == 1)
    assert len(arc) and np.hypot(*((arc - 10) * cutout.pixel_scale - [0, 1.5]).T).max() <= 0.6
    np.testing.assert_allclose(drawn.probability.sum(0), 1, atol=1e-6)
    kept = drawn.of("source") == 0
    np.testing.assert_array_equal(drawn.of("lens")[kept], masks.of("lens")[kept])
    _, alone = own.drawn_on(cutout, None)
    assert alone.origin == "hand" and alone.of("lens")[10, 10] == 1 and drawn.origin == "truth, hand"
    assert alone.probability.shape == (len(CLASSES), 21, 21)


def test_a_mask_of_another_shape_fails_its_candidate(tmp_path):
    fits.writeto(tmp_path / "bad.fits", np.ones((5, 5), np.float32))
    own = read(write(tmp_path, "J1: {mask: {ignore: bad.fits}}"), CONFIG)["J1"]
    with pytest.raises(CandidateError) as caught:
        own.drawn_on(*lens(size=21))
    assert caught.value.reason is Reason.SHAPE_MISMATCH


def test_the_nearest_id_is_named(tmp_path):
    said = []
    path = write(tmp_path, "J0029-0055: {}")
    assert overrides.of(path, CONFIG, "J0029-0055", said.append) is not None and not said
    assert overrides.of(path, CONFIG, "J0029-0056", said.append) is None
    assert "'J0029-0056', but of 'J0029-0055'" in said[0]


def test_the_stage_uses_it_for_that_candidate_alone(tmp_path):
    inputs = bundles(tmp_path, "a", "b")
    path = write(
        tmp_path,
        "a: {priors: {theta_E: {lower: 1.2, upper: 1.45}}, redshifts: [0.3, 1], mask: {ignore: 'box(3,3,1,1,0)'}}",
    )
    short = {"sampler": {"burn": 5, "min_steps": 10, "max_steps": 10}}
    assert fit(inputs, tmp_path / "out", short | {"candidates": str(path)}) == {"failed": {}}
    fits_of = {n: json.loads((tmp_path / "out" / n / "fit.json").read_text()) for n in "ab"}
    posterior = {n: read_posterior(tmp_path / "out" / n / "posterior.h5") for n in "ab"}
    assert posterior["a"].samples[..., 0].max() <= 1.45 < posterior["b"].best[0]
    assert "sigma_v" in fits_of["a"]["derived"] and "sigma_v" not in fits_of["b"]["derived"]
    assert "options of its own: priors, redshifts, mask" in fits_of["a"]["notes"] and not fits_of["b"]["notes"]
    write(tmp_path, "a: {priors: {theta: {lower: 1, upper: 2}}}")
    with pytest.raises(LenspipeError, match=r"candidates\.yaml: a: model\.priors\.theta: no such parameter; did you"):
        fit(inputs, tmp_path / "out2", short | {"candidates": str(path)})
