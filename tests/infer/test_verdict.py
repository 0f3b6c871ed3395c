"""Each criterion of the verdict, alone."""

from dataclasses import replace

import numpy as np
import pytest

from lenspipe.errors import Reason
from lenspipe.infer.config import VerdictConfig
from lenspipe.infer.verdict import Evidence, judge

FINE = Evidence(
    at_bound=(),
    searched=(0.3, 2.1),
    magnification=8.0,
    theta_E=1.5,
    source_radius=0.3,
    near_best=np.array([1.5, 1.51]),
    mass_light=0.05,
    other_lights={"SERSIC_ELLIPSE": 1.52},
    arc_signal=60.0,
    mask_overlap=0.9,
    converged=True,
    lenstronomy_difference=1e-13,
)


def test_good_without_a_reason_also_where_something_is_unknown():
    assert judge(FINE, VerdictConfig()).status == "good"
    unknown = replace(FINE, mask_overlap=float("nan"), lenstronomy_difference=float("nan"), mass_light=float("nan"))
    assert judge(unknown, VerdictConfig()).status == "good"


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"at_bound": ("e1",)}, "suspect", Reason.PARAMETER_AT_BOUND),
        ({"theta_E": 2.3, "near_best": np.array([2.3]), "other_lights": {}}, "suspect", Reason.PARAMETER_AT_BOUND),
        ({"magnification": 1.5}, "suspect", Reason.LOW_MAGNIFICATION),
        ({"source_radius": 1.4}, "suspect", Reason.SOURCE_TOO_LARGE),
        ({"near_best": np.array([1.5, 1.8])}, "suspect", Reason.STARTS_DISAGREE),
        ({"other_lights": {"A": 1.45, "B": 1.62}}, "suspect", Reason.LIGHT_MODELS_DISAGREE),
        ({"mass_light": 0.5}, "suspect", Reason.MASS_LIGHT_MISALIGNED),
        ({"mask_overlap": 0.05}, "suspect", Reason.MASK_DISAGREES),
        ({"converged": False}, "suspect", Reason.NOT_CONVERGED),
        ({"arc_signal": 15.0}, "suspect", Reason.ARC_FAINT),
        ({"arc_signal": 2.0}, "failed", Reason.ARC_TOO_FAINT),
        ({"arc_signal": float("nan")}, "failed", Reason.ARC_TOO_FAINT),
        ({"lenstronomy_difference": 1e-3}, "failed", Reason.LENSTRONOMY_DISAGREES),
    ],
)
def test_one_criterion(change, status, reason):
    verdict = judge(replace(FINE, **change), VerdictConfig(magnification=2.5))
    assert verdict.status == status
    assert [code for code, _ in verdict.reasons] == [reason]
    assert verdict.reasons[0][1].startswith(reason.sentence)
