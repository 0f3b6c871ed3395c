import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.sim.survey import Depth
from lenspipe.stages import presets
from lenspipe.stages.simulate import SimulateConfig


def of(survey):
    return parse(SimulateConfig, {"survey": survey}, "simulate").survey


@pytest.mark.parametrize("name", presets.names())
def test_depths_come_out_near_the_published_ones(name):
    survey = of(name)
    assert survey.name == name
    published = {band.name: band.depth.magnitude for band in survey.bands if band.depth}
    depth = {band: value for band, value in zip(survey.names, survey.depths()) if band in published}
    assert published
    assert list(depth.values()) == pytest.approx(list(published.values()), abs=0.3)
    assert (np.diff(survey.per_band("wavelength")) > 0).all()


def test_every_survey_of_the_list_is_there():
    wanted = "des_deep des_wide euclid hsc_wide hst_acs hst_wfc3 jwst_nircam kids legacy lsst_10year lsst_wide"
    assert presets.names() == wanted.split()


def test_fields_and_bands_over_a_preset():
    survey = of({"preset": "des_wide", "bands": ["g", "i"], "n_pixels": 64, "psf_scatter": 0.2})
    assert survey.names == ("g", "i")
    assert (survey.n_pixels, survey.psf_scatter, survey.pixel_scale) == (64, 0.2, 0.263)
    assert of(survey.model_dump()) == survey


def test_a_file_of_ones_own(tmp_path, monkeypatch):
    data = presets.preset("legacy").model_dump(mode="json") | {"name": "mine", "n_pixels": 33}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    monkeypatch.setenv("SURVEYS", str(tmp_path))
    assert of("$SURVEYS/mine.yaml").n_pixels == 33


@pytest.mark.parametrize(
    "survey, sentence",
    [
        ("des_wid", "did you mean 'des_wide'"),
        ("nowhere/x.yaml", "there is no such file"),
        ({"preset": "legacy", "bands": ["g", "i"]}, "the survey legacy has no band 'i'"),
        ({"preset": "legacy", "pixels": 3}, "unknown key"),
    ],
)
def test_wrong_surveys_are_refused_in_a_sentence(survey, sentence):
    with pytest.raises(LenspipeError, match=sentence):
        of(survey)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"sky_brightness": {"value": {"g": 22.0, "r": 21.0}, "source": "x"}},
            "sky_brightness has no value .* band 'z'",
        ),
        ({"psf_fwhm": {"value": {"g": 1, "r": 1, "z": 1, "i": 1}, "source": "x"}}, "psf_fwhm names the band 'i'"),
        ({"pixel_scale": {"value": 0.2}}, "source"),
        ({"pixel_scale": {"value": {"g": 1, "r": 1, "z": 1}, "source": "x"}}, "one number for all bands"),
        ({"gain": {"value": 4, "source": "x"}}, "unknown key"),
    ],
)
def test_wrong_files_are_refused_in_a_sentence(change, sentence, tmp_path):
    data = presets.preset("legacy").model_dump(mode="json", exclude_none=True) | change
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(LenspipeError, match=sentence) as error:
        presets.preset(str(tmp_path / "mine.yaml"))
    assert "mine.yaml" in str(error.value)
    with pytest.raises(LenspipeError, match=sentence) as error:
        of(str(tmp_path / "mine.yaml"))
    said = str(error.value)
    assert "value error" not in said.lower() and len(said) < 600  # the sentence, not the whole file


def test_depth_of_a_star_is_that_of_weights_like_its_psf():
    survey = of({"preset": "des_wide", "bands": ["r"]})
    band = survey.bands[0].model_copy(update={"psf_beta": None, "depth": Depth(kind="point", magnitude=25)})
    survey = survey.model_copy(update={"bands": (band,)})
    sigma = band.psf_fwhm / math.sqrt(8 * math.log(2)) / survey.pixel_scale
    expected = 5 * survey.sky_rms()[0] * math.sqrt(4 * math.pi) * sigma
    assert survey.flux(survey.depths())[0] == pytest.approx(expected)


def test_workflows_of_the_page_are_accepted():
    page = (Path(__file__).parents[2] / "docs" / "simulations.md").read_text(encoding="utf-8")
    texts = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    found = [corridor["simulate"] for text in texts for corridor in yaml.safe_load(text)["corridors"].values()]
    assert len(found) >= 2
    for options in found:
        parse(SimulateConfig, options, "simulate")
