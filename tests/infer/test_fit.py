"""A whole fit: what goes in comes out, with masks and without, and bad candidates say why."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer.config import FitConfig
from lenspipe.infer.fit import fit
from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.objective import LogPosterior
from lenspipe.infer.prepare import prepare
from lenspipe.lensing.light import sersic_flux
from lenspipe.types import CLASSES, Masks
from tests.infer.mock import SCENE, TRUTH, lens

SHORT = FitConfig.model_validate(
    {"sampler": {"burn": 150, "min_steps": 300, "max_steps": 300}, "search": {"starts": 12, "radii": 14}}
)


@pytest.fixture(scope="module")
def fitted():
    cutout, masks = lens()
    return cutout, masks, fit(cutout, masks, SHORT, seed=1)


def test_recovers_the_truth(fitted):
    _, _, found = fitted
    samples = found.posterior.samples.reshape(-1, len(SCENE.names))
    for name in ("theta_E", "e1", "e2", "gamma1", "gamma2", "source_center_x", "source_center_y"):
        draws = samples[:, SCENE.index(name)]
        assert abs(draws.mean() - TRUTH[name]) < 4 * draws.std(), name
    assert samples[:, 0].std() < 0.1
    assert 0.9 < found.reduced_chi2 < 1.1
    assert found.lenstronomy_difference < 1e-9
    assert found.posterior.samples.shape == (4, 300 * 40, 17)
    assert {str(reason) for reason, _ in found.verdict.reasons} <= {"not_converged"}


def test_the_image_alone_leads_to_the_same_lens(fitted):
    cutout, _, found = fitted
    tiny = SHORT.model_copy(update={"sampler": SHORT.sampler.model_copy(update={"min_steps": 10, "max_steps": 10})})
    alone = fit(cutout, None, tiny, seed=1)
    np.testing.assert_allclose(alone.posterior.best, found.posterior.best, atol=0.02)


def test_amplitudes_are_integrated_over_flat_in_flux(fitted):
    cutout, _, found = fitted
    imaging = prepare(cutout, None, found.config.data).imaging
    likelihood, maximum = (Likelihood(imaging, SCENE, marginalise=m) for m in (True, False))
    u = found.chains.u[0, -1, :5]
    vectors = torch.as_tensor(found.priors.physical(u))
    columns = torch.tensor([c.columns[:2] for c in (*SCENE.source, *SCENE.lens_light)])
    flux = sersic_flux(vectors[:, columns[:, 0]], vectors[:, columns[:, 1]])
    # In units of their total flux the layers' amplitudes are the fluxes, and an integral over those needs no more.
    layers = (likelihood.response(vectors) / flux[:, :, None, None, None]).flatten(-2)
    normal = torch.einsum("klbd,bd,kmbd->kblm", layers, likelihood.weight.flatten(-2), layers)
    expected = maximum.parts(vectors)[0] - 0.5 * torch.logdet(normal).sum(-1)
    value = LogPosterior(likelihood, found.priors)(u) - found.priors.log_prior(u)
    np.testing.assert_allclose(value - value[0], expected - expected[0], atol=1e-6)


def test_another_objects_pixels_do_not_count(fitted):
    cutout, masks, _ = fitted
    probability = masks.probability.copy()
    probability[:, 2:8, 2:8] = 0
    probability[CLASSES.index("noise"), 2:8, 2:8] = 1
    prepared = prepare(cutout, Masks(probability, "truth"), SHORT.data)
    assert not prepared.imaging.mask[:, 1:9, 2:8].any()
    assert prepared.imaging.mask.sum() == 3 * (45 * 45 - 36 - 4 * 6)


def test_masks_without_a_lens_say_so(fitted):
    cutout, masks, _ = fitted
    empty = np.zeros_like(masks.probability)
    empty[CLASSES.index("background")] = 1
    with pytest.raises(CandidateError) as caught:
        fit(cutout, Masks(empty, "unet"), SHORT, seed=1)
    assert caught.value.reason is Reason.NO_LENS_FOUND


def test_window_keeps_the_origin(fitted):
    cutout, _, _ = fitted
    sharp = replace(cutout, pixel_scale=0.05, psf_fwhm=np.full(3, 0.1))
    prepared = prepare(sharp, None, SHORT.data.model_copy(update={"window": 1.0}))
    assert prepared.imaging.shape == (21, 21)
    assert prepared.origin == (12, 12)
    np.testing.assert_array_equal(prepared.imaging.image, cutout.image[:, 12:33, 12:33])
