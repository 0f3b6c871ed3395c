"""What many do together must be what each does alone."""

import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer import stack
from lenspipe.infer.batch.broker import Broker
from lenspipe.infer.batch.climb import climb
from lenspipe.infer.batch.problems import Problems, alike
from lenspipe.infer.batch.random import Counted
from lenspipe.infer.batch.walk import walk
from lenspipe.infer.config import FitConfig, SamplerConfig
from lenspipe.infer.fit import fit
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.objective import LogPosterior, Objective
from lenspipe.infer.optimise import levenberg_marquardt
from lenspipe.infer.priors import Priors
from lenspipe.infer.subpixels import refined
from lenspipe.infer.together import program
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import build
from tests.infer.mock import SCENE, VECTOR, lens

CPU = torch.device("cpu")


def member(side: int, seed: int, psf: str, kind: str, scene=SCENE, scale: float = 0.26) -> tuple[Likelihood, Priors]:
    """A lens of its own size, pixel scale, PSF and noise; `kind` is poisson, map, refined or templates."""
    rng = np.random.default_rng(seed)
    blank = np.ones((2, side, side))
    mask = rng.random(blank.shape) > 0.05
    fwhm = np.array([0.9, 1.1]) + 0.1 * rng.random(2)
    kernels = np.stack([gaussian_kernel(1.0, scale)] * 2)
    data = Imaging(
        20 * np.exp(-np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]) * 5) + rng.normal(size=blank.shape),
        mask,
        scale,
        sigma=None if kind == "poisson" else 1 + rng.random(blank.shape),
        background_rms=np.array([1.0, 1.2]) if kind == "poisson" else None,
        exposure_time=np.array([30.0, 40.0]) if kind == "poisson" else None,
        psf_fwhm=fwhm if psf == "gaussian" else None,
        psf=kernels if psf == "pixel" else None,
        templates=rng.random((2, 3, side, side)) if kind == "templates" else None,
    )
    likelihood = Likelihood(data, scene, supersampling=2, marginalise=True)
    priors = Priors(scene.names, {}, 0.1)
    if kind == "refined":
        likelihood = refined(likelihood, VECTOR, 0.3)
        assert likelihood.patches
    return likelihood, priors


def near(priors: Priors, count: int, seed: int, spread: float = 0.05) -> np.ndarray:
    u = priors.inner(VECTOR)
    return np.clip(u + spread * np.random.default_rng(seed).normal(size=(count, len(u))), priors.lower, priors.upper)


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
@pytest.mark.parametrize("kind", ["poisson", "map", "refined", "templates"])
def test_log_posterior_and_cost_of_padded_candidates(psf, kind):
    sizes, scales = (31, 26, 32), (0.26, 0.2, 0.3)
    members = [member(side, i, psf, kind, scale=s) for i, (side, s) in enumerate(zip(sizes, scales))]
    if psf == "pixel":  # the mock's kernels are as wide as the scale says
        members = [member(side, i, psf, kind) for i, side in enumerate(sizes)]
    assert len({alike(*m) for m in members}) == 1
    likelihoods, priors = zip(*members)
    problems = Problems(likelihoods, priors, CPU, memory=3e6)
    assert problems.stack.largest < 5
    u = np.stack([near(p, 5, i) for i, p in enumerate(priors)])
    u[1, 2, 0] += 20  # outside the prior
    found = problems.log_posterior(torch.as_tensor(u))
    cost = problems.cost(torch.as_tensor(u[:, :2]))
    for n, (likelihood, prior) in enumerate(members):
        np.testing.assert_allclose(found[n], LogPosterior(likelihood, prior)(u[n]), rtol=1e-9)
        np.testing.assert_allclose(cost[n], Objective(likelihood, prior).cost(u[n, :2]), rtol=1e-9)
    assert float(found[1, 2]) == -np.inf


def test_candidates_of_other_scenes_or_sizes_are_not_alike():
    one = member(31, 0, "gaussian", "map")
    others = [
        member(31, 0, "pixel", "map"),
        member(31, 0, "gaussian", "poisson"),
        member(60, 0, "gaussian", "map"),
        member(31, 0, "gaussian", "map", build(["SIE"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])),
    ]
    assert alike(*one) not in {alike(*o) for o in others}


def test_climbs_to_where_each_climbs_alone():
    members = [member(31, i, "gaussian", "map") for i in range(2)]
    starts = np.stack([near(p, 3, i) for i, (_, p) in enumerate(members)])
    problems = Problems(*zip(*members), CPU, memory=1e9)
    u, cost, evaluations = climb(problems, torch.as_tensor(starts), iterations=6, tolerance=0.02)
    for n, (likelihood, prior) in enumerate(members):
        objective = Objective(likelihood, prior)
        alone = levenberg_marquardt(objective, starts[n], prior.lower, prior.upper, 6)
        np.testing.assert_allclose(cost[n], alone.cost, rtol=1e-5)
        np.testing.assert_allclose(u[n], alone.u, atol=1e-3)
        assert evaluations[n] == objective.calls


def test_starts_that_rest_are_not_computed(monkeypatch):
    members = [member(31, i, "gaussian", "map") for i in range(2)]
    # One start of each where it will rest at once, the others near it.
    starts = np.stack([near(p, 4, i, spread) for i, ((_, p), spread) in enumerate(zip(members, (1e-5, 0.1)))])
    problems = Problems(*zip(*members), CPU, memory=1e9)
    computed, residuals = [], problems.residuals

    def counted(u):
        computed.append(u.shape[0] * u.shape[1])
        return residuals(u)

    monkeypatch.setattr(problems, "residuals", counted)
    _, cost, evaluations = climb(problems, torch.as_tensor(starts), iterations=30, tolerance=1e3)
    # A tolerance so large lets each start rest after three Jacobians.
    P = starts.shape[-1]
    assert evaluations.max() <= 4 + 3 * 4 * (P + 3)
    assert sum(computed) <= 2 * evaluations.max()
    assert torch.isfinite(cost).all()


class _Gaussian:
    """Stands for `Problems` with a posterior that is known: six correlated dimensions."""

    def __init__(self) -> None:
        root = np.random.default_rng(0).normal(size=(6, 6))
        self.covariance = root @ root.T + np.eye(6)
        self.precision = torch.as_tensor(np.linalg.inv(self.covariance))

    def log_posterior(self, u):
        return -0.5 * torch.einsum("nki,ij,nkj->nk", u, self.precision, u)


@pytest.mark.parametrize("learnt", ["well", "badly"])
def test_the_moves_leave_a_known_posterior_as_it_is(learnt):
    """emcee's are held to the same in test_sample.py; a bad Gaussian makes Crank-Nicolson slow, not wrong."""
    target = _Gaussian()
    root = np.linalg.cholesky(target.covariance)
    rng = np.random.default_rng(1)
    here = torch.as_tensor(rng.normal(size=(2, 4, 20, 6)) @ root.T)
    gaussian = root if learnt == "well" else np.diag(np.sqrt(np.diag(target.covariance))) * 1.3
    mean = torch.as_tensor(np.full((2, 6), 0.0 if learnt == "well" else 0.3))
    random = Counted(torch.tensor([1, 2]))
    values = target.log_posterior(here.flatten(1, 2)).view(2, 4, 20)
    u, levels = walk(target, here, values, mean, torch.as_tensor(gaussian).expand(2, 6, 6), random, 600)
    assert u.shape == (2, 600, 4, 20, 6) and levels.shape == (2, 600, 4, 20)
    np.testing.assert_allclose(levels[0, -1], target.log_posterior(u[:, -1].flatten(1, 2)).view(2, 4, 20)[0])
    draws = u[:, 50::25].reshape(-1, 6).numpy()
    for p in range(6):
        assert stats.kstest(draws[:, p] / np.sqrt(target.covariance[p, p]), "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.cov(u[:, 50:].reshape(-1, 6).numpy().T), target.covariance, atol=0.6)


SHORT = FitConfig(
    search={"starts": 16, "finalists": 6, "radii": 12},
    data={"subpixel_error": None},
    sampler=SamplerConfig(burn=60, min_steps=100, max_steps=100, walkers=34),
)


def in_one_band(cutout):
    """The first band alone, whose PSF the mock's image is."""
    kept = {name: getattr(cutout, name)[:1] for name in ("image", "sigma", "valid", "psf", "zero_point")}
    kept |= {name: getattr(cutout, name)[:1] for name in ("background_rms", "exposure_time")}
    return replace(cutout, bands=cutout.bands[:1], psf_fwhm=np.full(1, np.nan), **kept)


def test_mixed_fits_together_are_the_fits_alone():
    """Two go side by side though their sizes differ; one has other bands, another PSF and another S/N."""
    cutouts = [
        lens(size=27, scale=0.4, depth=1.5, seed=1)[0],
        lens(size=29, scale=0.4, depth=1.5, seed=2)[0],
        in_one_band(lens(size=29, scale=0.4, depth=3.0, seed=3)[0]),
    ]
    jobs = [lambda c=c, s=s: fit(c, None, SHORT, seed=s) for s, c in enumerate(cutouts)]
    broker = Broker()
    written = []
    together = broker.run(jobs, at_once=3, then=lambda found: written.append(found) or found)
    assert program.get() is None and len(written) == 3
    assert {kind for kind, _ in broker.served} == {"climb", "cost", "log_posterior", "walk"}
    assert {count for _, count in broker.served} == {1, 2}
    for one, job in zip(together, jobs):
        assert not isinstance(one, Exception), one
        alone = job()
        assert (one.engine, one.device) == ("torch", "cpu")
        assert one.verdict.status == alone.verdict.status
        assert one.log_likelihood == pytest.approx(alone.log_likelihood, abs=0.5)
        mine, its = (f.chains.u.reshape(-1, f.chains.u.shape[-1]) for f in (one, alone))
        # Chains so short know their autocorrelation badly: as if 150 of their draws were independent.
        worth = np.minimum([f.chains.diagnostics.ess for f in (one, alone)], 150)
        error = np.sqrt((1 / worth).sum(0))
        assert (np.abs(mine.mean(0) - its.mean(0)) < 4 * error * its.std(0)).all()
        assert (np.abs(np.log(mine.std(0) / its.std(0))) < 4 * error / np.sqrt(2)).all()


def test_fits_go_on_while_one_is_written_down():
    likelihood, priors = member(31, 0, "gaussian", "map")
    events = []

    def one(name: int) -> int:
        for _ in range(1 + 3 * name):
            program.get().cost(Objective(likelihood, priors), near(priors, 1, name))
        events.append(f"fitted {name}")
        return name

    def written(name: int) -> int:
        while name == 0 and "fitted 1" not in events:
            time.sleep(0.01)
        if name == 1:
            raise OSError("disk full")
        return 10 * name

    found = Broker().run([lambda n=n: one(n) for n in range(4)], at_once=2, then=written)
    assert (found[0], found[2], found[3]) == (0, 20, 30)
    assert isinstance(found[1], OSError)


def test_enough_of_a_kind_do_not_wait_for_the_others(monkeypatch):
    monkeypatch.setattr("lenspipe.infer.batch.broker.ENOUGH", 2)
    one = member(31, 0, "gaussian", "map")
    served = threading.Event()

    def asks():
        cost = cost_of(one)()
        served.set()
        return cost

    def works():
        assert served.wait(60), "they waited for this one"
        return cost_of(one)()

    found = Broker().run([asks, works, asks], at_once=3)
    for cost in found:
        np.testing.assert_allclose(cost, Objective(*one).cost(near(one[1], 3, 0)), rtol=1e-9)


def test_one_that_fails_harms_no_other():
    def bad():
        raise CandidateError(Reason.NO_LENS_FOUND, "nothing there")

    likelihood, priors = member(31, 0, "gaussian", "map")
    wrong = np.zeros((1, 3))  # of a shape that no program can take

    def spoilt():
        return program.get().cost(Objective(likelihood, priors), wrong)

    def fine():
        return program.get().cost(Objective(likelihood, priors), near(priors, 2, 0))

    found = Broker().run([bad, spoilt, fine, fine], at_once=4)
    assert isinstance(found[0], CandidateError)
    assert isinstance(found[1], Exception) and not isinstance(found[1], CandidateError)
    for cost in found[2:]:
        np.testing.assert_allclose(cost, Objective(likelihood, priors).cost(near(priors, 2, 0)), rtol=1e-9)


def cost_of(one, count=3, seed=0):
    likelihood, priors = one
    return lambda: program.get().cost(Objective(likelihood, priors), near(priors, count, seed))


def test_a_budget_too_small_for_one_vector_still_serves():
    members = [member(31, i, "gaussian", "map") for i in range(3)]
    found = Broker(memory=1.0).run([cost_of(m) for m in members], at_once=3)
    for cost, (likelihood, priors) in zip(found, members):
        np.testing.assert_allclose(cost, Objective(likelihood, priors).cost(near(priors, 3, 0)), rtol=1e-9)


def test_out_of_memory_halves_the_batch_and_frees_what_failed(monkeypatch, caplog):
    members = [member(31, i, "gaussian", "map") for i in range(3)]
    expected = [Objective(*m).cost(near(m[1], 3, 0)) for m in members]
    held, room = [], 4

    def starving(stack, vectors, non_negative):
        assert not any(tensor() is not None for tensor in held), "what failed before is still in memory"
        if vectors.shape[0] * vectors.shape[1] > room:
            image = torch.zeros(3)
            held.append(weakref.ref(image))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB")
        return real(stack, vectors, non_negative)

    real = stack.residuals
    monkeypatch.setattr(stack, "residuals", starving)
    broker = Broker(memory=8e8)
    found = broker.run([cost_of(m) for m in members], at_once=3)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert 1e6 < broker.memory < 8e8
    assert "out of memory with 3 candidates" in caplog.text
    room = 0
    found = Broker(memory=4e6).run([cost_of(members[0])], at_once=1)
    assert isinstance(found[0], torch.OutOfMemoryError)
