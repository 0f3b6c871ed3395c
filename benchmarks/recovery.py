"""Are the posteriors calibrated? Lenses drawn from the declared priors, fitted unattended, held against their truth.

Every draw is fitted: nothing is selected, neither by the truth nor by the data, so simulation-based calibration
(Talts et al. 2018, arXiv:1804.06788) holds as it stands. The priors are `PRIORS`, the fit's and the draws' alike, and
unlensed fluxes flat from 0 to `BRIGHTEST`; the fit integrates over them without the upper end, so its draws are
weighted by the share of their fluxes that is below it.
What is not fitted may vary freely: the number of exposures, and so S/N, the seeing of each band.

Three 45x45 bands of the DES-like survey that `lenspipe.sim` renders, photon noise of lens, source and sky drawn for
each pixel. The images' pixels are averaged over as many subpixels as it takes to be exact; the fits choose theirs. The
second table has no gate: PSFs taken for 10 % wider than they are, noise for 20 % lower, and an elliptical power law of
slope 2.2 fitted by an SIE.

Figures are appended to ``--out``, one line a lens; with ``--resume`` what is in it is not fitted again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import beta, chi2, truncnorm
from threadpoolctl import threadpool_limits

from lenspipe.errors import CandidateError
from lenspipe.infer.config import FitConfig
from lenspipe.infer.fit import Fit, fit
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.priors import Prior, Priors
from lenspipe.infer.subpixels import needed
from lenspipe.label.masks import label
from lenspipe.lensing.grid import bin_mean
from lenspipe.lensing.light import sersic_ellipse, sersic_flux
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import build
from lenspipe.sim.survey import Survey
from lenspipe.types import Cutout, Masks

Floats = NDArray[np.float64]

ELLIPTICITY = Prior(kind="normal", centre=0, sigma=0.15, lower=-0.6, upper=0.6)
SHEAR = Prior(kind="normal", centre=0, sigma=0.03, lower=-0.2, upper=0.2)
CENTRE = Prior(kind="normal", centre=0, sigma=0.1, lower=-0.5, upper=0.5)
SOURCE_CENTRE = Prior(kind="normal", centre=0, sigma=0.2, lower=-1.0, upper=1.0)
PRIORS = {
    "theta_E": Prior(kind="loguniform", lower=0.8, upper=3.0),
    "e1": ELLIPTICITY,
    "e2": ELLIPTICITY,
    "center_x": CENTRE,
    "center_y": CENTRE,
    "gamma1": SHEAR,
    "gamma2": SHEAR,
    "source_R_sersic": Prior(kind="lognormal", centre=0.25, sigma=0.3, lower=0.05, upper=1.0),
    "source_n_sersic": Prior(kind="lognormal", centre=1.3, sigma=0.3, lower=0.5, upper=4.0),
    "source_e1": ELLIPTICITY,
    "source_e2": ELLIPTICITY,
    "source_center_x": SOURCE_CENTRE,
    "source_center_y": SOURCE_CENTRE,
    "lens_light_R_sersic": Prior(kind="lognormal", centre=1.0, sigma=0.35, lower=0.2, upper=4.0),
    "lens_light_n_sersic": Prior(kind="lognormal", centre=2.5, sigma=0.25, lower=0.8, upper=8.0),
    "lens_light_e1": ELLIPTICITY,
    "lens_light_e2": ELLIPTICITY,
}
BRIGHTEST = np.array([[300.0, 350.0, 400.0], [6000.0, 16000.0, 24000.0]])
"""Fluxes of source and lens light in g, r, i, zero point 30."""
EXPOSURES = (3, 30)
"""The number of exposures is log-uniform between these."""
CONFIG = FitConfig(priors=PRIORS, mass_follows_light=0.1, data={"supersampling": 2})
SUBPIXELS, EXACT = 4, 0.01
"""Of the images: on a pixel's side at least, and more until none is off by more than this share of the sky's noise."""

GATED = ("theta_E", "e1", "e2", "gamma1", "gamma2", "source_center_x", "source_center_y")
VARIANTS = {
    "as modelled": "",
    "psf": "PSFs taken for 10 % wider than they are",
    "noise": "noise taken for 20 % lower than it is",
    "slope": "mass profile of slope 2.2, fitted by an SIE",
}
SLOPE = 2.2
RANKED, WEIGHED = 99, 1600
"""Draws of a posterior among which the truth is ranked, taken from so many that are all but independent."""
WRONG_SIGMA, WRONG_SHARE = 3.0, 0.1
"""A theta_E off by more than both is wrong."""


@dataclass(frozen=True)
class Truth:
    """One drawn lens: parameters (P,), unlensed fluxes (2, B) of source and lens light, their flux per pixel
    (2, B, H, W), and what the telescope did."""

    vector: Floats
    flux: Floats
    layers: Floats
    fwhm: Floats
    rms: Floats
    gain: Floats


SCENE = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
DECLARED = Priors(SCENE.names, PRIORS, CONFIG.mass_follows_light)


def from_priors(rng: np.random.Generator) -> Floats:
    """(P,) parameters drawn from `PRIORS`."""
    bell = DECLARED.precision > 0
    centre, width = DECLARED.centre[bell], 1 / DECLARED.precision[bell]
    low, high = (DECLARED.lower[bell] - centre) / width, (DECLARED.upper[bell] - centre) / width
    while True:
        u = rng.uniform(DECLARED.lower, DECLARED.upper)
        u[bell] = truncnorm.rvs(low, high, centre, width, random_state=rng)
        # The rest of the residuals couple mass and light: kept as often as that factor of the density says.
        coupling = DECLARED.residuals(u)[len(u) :]
        if rng.uniform() < np.exp(-0.5 * (coupling**2).sum()):
            break
    return DECLARED.physical(u)


def draw(rng: np.random.Generator, variant: str) -> Truth:
    """A lens and its noiseless layers."""
    vector = from_priors(rng)
    flux = rng.uniform(0, BRIGHTEST)
    survey = Survey(n_exposures=round(np.exp(rng.uniform(*np.log(EXPOSURES)))))
    fwhm = np.array([b.psf_fwhm for b in survey.bands]) * np.exp(rng.normal(0, survey.psf_scatter, len(survey.bands)))
    blank = np.ones((len(fwhm), survey.n_pixels, survey.n_pixels))
    imaging = Imaging(blank, blank > 0, survey.pixel_scale, sigma=blank, psf_fwhm=fwhm)
    profiles = (SCENE.source[0], SCENE.lens_light[0])
    unit = np.array([float(sersic_flux(*torch.as_tensor(vector[list(p.columns[:2])]))) for p in profiles])
    amplitudes = survey.pixel_scale**2 * flux / unit[:, None]
    over_noise = (amplitudes / survey.sky_rms())[:, :, None, None] * blank
    subpixels = needed(SCENE, vector, over_noise, survey.pixel_scale, EXACT, SUBPIXELS)
    likelihood = Likelihood(imaging, SCENE, supersampling=SUBPIXELS, engine="torch", subpixels=subpixels)
    response = likelihood.response(torch.as_tensor(vector)[None])[0]
    if variant == "slope":
        response[0] = power_law(vector, likelihood)
    layers = amplitudes[:, :, None, None] * response.numpy()
    return Truth(vector, flux, layers, fwhm, survey.sky_rms(), survey.effective_gain())


def power_law(vector: Floats, likelihood: Likelihood) -> torch.Tensor:
    """(B, H, W) the source lensed by lenstronomy's elliptical power law of slope `SLOPE`, at unit amplitude."""
    from lenstronomy.LensModel.lens_model import LensModel

    value = dict(zip(SCENE.names, vector.tolist()))
    x, y = (a.numpy() for a in torch.broadcast_tensors(likelihood.x, likelihood.y))
    mass = {n: value[n] for n in ("theta_E", "e1", "e2", "center_x", "center_y")} | {"gamma": SLOPE}
    shear = {n: value[n] for n in ("gamma1", "gamma2")} | {"ra_0": 0.0, "dec_0": 0.0}
    beta_x, beta_y = LensModel(["EPL", "SHEAR"]).ray_shooting(x.ravel(), y.ravel(), [mass, shear])
    shape = SCENE.source[0].parameters(torch.as_tensor(vector)[None])
    light = sersic_ellipse(*(torch.as_tensor(b.reshape(1, *x.shape)) for b in (beta_x, beta_y)), *shape)
    return likelihood.blur(bin_mean(light[:, None], likelihood.supersampling))[0, 0]


def observe(truth: Truth, rng: np.random.Generator, variant: str) -> Cutout:
    """The noisy image, with what the fit is told of PSF and noise."""
    gain, rms = truth.gain[:, None, None], truth.rms[:, None, None]
    model = truth.layers.sum(0)
    image = rng.poisson(model * gain) / gain + rng.normal(size=model.shape) * rms
    told_rms, told_gain = truth.rms, truth.gain
    if variant == "noise":
        told_rms, told_gain = 0.8 * truth.rms, truth.gain / 0.64
    fwhm = truth.fwhm * (1.1 if variant == "psf" else 1.0)
    survey = Survey()
    return Cutout(
        id="drawn",
        bands=tuple(b.name for b in survey.bands),
        image=image.astype(np.float32),
        sigma=np.sqrt(told_rms[:, None, None] ** 2 + np.clip(image, 0, None) / told_gain[:, None, None]).astype("f4"),
        valid=np.ones(image.shape, bool),
        psf=np.stack([gaussian_kernel(fwhm.max(), survey.pixel_scale)] * len(fwhm)).astype(np.float32),
        psf_fwhm=fwhm,
        pixel_scale=survey.pixel_scale,
        background_rms=told_rms,
        exposure_time=told_gain,
        zero_point=np.full(len(fwhm), survey.zero_point),
    )


def true_masks(truth: Truth) -> Masks:
    """What a perfect segmentation would say."""
    source, lens = truth.layers.astype(np.float32)[:, None]
    classes = label(source, lens, np.zeros_like(lens), truth.rms[None], threshold=1.0)[0]
    return Masks(np.eye(4, dtype=np.float32)[classes].transpose(2, 0, 1), "truth")


def one(job: tuple[str, int, int, bool]) -> dict[str, Any]:
    """Draw, observe and fit lens `index` of a variant: the line that is written."""
    variant, index, seed, masked = job
    torch.set_num_threads(1)
    # The same lens, the same noise in every variant.
    lens_rng, noise_rng, rank_rng = (np.random.default_rng(s) for s in np.random.SeedSequence([seed, index]).spawn(3))
    truth = draw(lens_rng, variant)
    cutout = observe(truth, noise_rng, variant)
    variance = truth.rms[:, None, None] ** 2 + truth.layers.sum(0) / truth.gain[:, None, None]
    line: dict[str, Any] = {
        "variant": variant,
        "index": index,
        "seed": seed,
        "masks": masked,
        "arc_snr": float(np.sqrt((truth.layers[0] ** 2 / variance).sum())),
        "magnification": float(truth.layers[0].sum() / truth.flux[0].sum()),
        "truth": dict(zip(SCENE.names, truth.vector.tolist())),
    }
    begun = time.process_time()
    try:
        with torch.no_grad(), threadpool_limits(1):
            found = fit(cutout, true_masks(truth) if masked else None, CONFIG, seed=index)
    except CandidateError as error:
        line |= {"status": "failed", "reasons": [str(error.reason)], "parameters": {}}
    else:
        line |= describe(found, truth.vector, rank_rng)
    return line | {"cpu_seconds": time.process_time() - begun}


def describe(found: Fit, truth: Floats, rng: np.random.Generator) -> dict[str, Any]:
    """Verdict, and of each parameter median, sigma, the posterior's share below the truth and the truth's rank."""
    chains = found.chains.u
    C, T, K, P = chains.shape
    draws = found.priors.physical(chains[:, :: -(-C * T * K // WEIGHED)].reshape(-1, P))
    weights = below_the_brightest(found, draws)
    few = draws[rng.choice(len(draws), RANKED, replace=False, p=weights)]
    quality = found.chains.diagnostics
    mean = weights @ draws
    sigma = np.sqrt(weights @ (draws - mean) ** 2)
    values = zip(
        (quantile(draws[:, i], weights, 0.5) for i in range(P)),
        sigma,
        found.posterior.best,
        weights @ (draws < truth),
        (few < truth).sum(0).tolist(),
    )
    return {
        "status": found.verdict.status,
        "reasons": [str(code) for code, _ in found.verdict.reasons],
        "parameters": {
            name: {"median": float(m), "sigma": float(s), "best": float(b), "below": float(q), "rank": r}
            for name, (m, s, b, q, r) in zip(SCENE.names, values)
        },
        "weights_worth": float(1 / (weights**2).sum() / len(weights)),
        "ess_min": float(quality.ess.min()),
        "rhat_max": float(quality.rhat.max()),
        "tau_max": float(quality.tau.max()),
        "steps": T,
        "evaluations": found.evaluations,
        "log_likelihood": found.log_likelihood,
        "reduced_chi2": found.reduced_chi2,
    }


def below_the_brightest(found: Fit, draws: Floats) -> Floats:
    """(n,) weights of (n, P) `draws`, sum 1: the share of each one's fluxes that is not above `BRIGHTEST`.

    The fit integrates over fluxes without an upper end, and the truths have one. Of a source near it the fit alone
    would think too often that it is brighter, less magnified, and its lens smaller.
    """
    imaging = replace(found.prepared.imaging, sigma=found.images.sigma, background_rms=None, exposure_time=None)
    likelihood = Likelihood(imaging, SCENE, supersampling=CONFIG.data.supersampling, engine="torch")
    log_weights = []
    for part in torch.as_tensor(draws).split(64):
        solved = likelihood.solve(part, non_negative=True)
        unit = SCENE.unit_fluxes(part, len(BRIGHTEST[0])) * likelihood.unit / likelihood.pixel_area
        flux = (solved.amplitudes * unit).numpy()
        covariance = torch.linalg.inv(solved.normal.double()).diagonal(dim1=-2, dim2=-1)
        sigma = (covariance.sqrt() * unit).numpy()
        none, most = -flux / sigma, (BRIGHTEST.T - flux) / sigma
        log_weights.append(np.log((ndtr(most) - ndtr(none)).clip(1e-300) / ndtr(-none)).sum((1, 2)))
    weights = np.exp(np.concatenate(log_weights) - np.max(np.concatenate(log_weights)))
    return np.asarray(weights / weights.sum())


def quantile(values: Floats, weights: Floats, share: float) -> float:
    """The value below which `share` of the weights lie."""
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), share).clip(max=len(order) - 1)])


def is_wrong(line: dict[str, Any]) -> bool:
    """theta_E is off by more than `WRONG_SIGMA` sigma and by more than `WRONG_SHARE` of itself."""
    found, true = line["parameters"]["theta_E"], line["truth"]["theta_E"]
    off = abs(found["median"] - true)
    return bool(off > WRONG_SIGMA * found["sigma"] and off > WRONG_SHARE * true)


def upper95(bad: int, of: int) -> float:
    """One-sided 95 % limit on a rate of which `bad` of `of` were seen (Clopper & Pearson 1934)."""
    return float(beta.ppf(0.95, bad + 1, of - bad)) if bad < of else 1.0


def figures(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one variant."""
    fitted = [line for line in lines if line["parameters"]]
    good = [line for line in fitted if line["status"] == "good"]
    bins = max(b for b in (5, 10, 20) if b == 5 or len(fitted) >= 10 * b)
    result: dict[str, Any] = {"n": len(lines)}
    below = {name: np.array([f["parameters"][name]["below"] for f in fitted]) for name in GATED}
    result["coverage68"] = {n: float((abs(q - 0.5) < 0.34).mean()) for n, q in below.items()}
    result["coverage95"] = {n: float((abs(q - 0.5) < 0.475).mean()) for n, q in below.items()}
    result["bias_sigma"], result["sbc_p"] = {}, {}
    for name in GATED:
        found = [f["parameters"][name] for f in fitted]
        offsets = [(p["median"] - f["truth"][name]) / p["sigma"] for p, f in zip(found, fitted)]
        result["bias_sigma"][name] = float(np.mean(offsets))
        counts, _ = np.histogram([p["rank"] for p in found], bins, (0, RANKED + 1))
        expected = len(fitted) / bins
        result["sbc_p"][name] = float(chi2.sf(((counts - expected) ** 2 / expected).sum(), bins - 1))
    silent = sum(map(is_wrong, good))
    return result | {
        "sbc_p_min": min(result["sbc_p"].values()),
        "good_fraction": len(good) / len(lines),
        "failure_rate": sum(line["status"] == "failed" for line in lines) / len(lines),
        "wrong": sum(map(is_wrong, fitted)),
        "silent_failures": silent,
        "silent_upper95": upper95(silent, len(good)),
        "cpu_seconds_per_lens": float(np.mean([line["cpu_seconds"] for line in lines])),
    }


def show(title: str, lines: list[dict[str, Any]], result: dict[str, Any]) -> None:
    print(f"\n{title}: {result['n']} lenses, {result['cpu_seconds_per_lens']:.1f} CPU-s each")
    print(f"{'':18}{'coverage 68 %':>14}{'95 %':>8}{'bias/sigma':>12}{'SBC p':>10}")
    for n in GATED:
        row = (result[key][n] for key in ("coverage68", "coverage95", "bias_sigma", "sbc_p"))
        print("{:18}{:14.3f}{:8.3f}{:12.3f}{:10.4f}".format(n, *row))
    print(
        f"good {result['good_fraction']:.3f}, failed {result['failure_rate']:.3f}; wrong theta_E {result['wrong']}, "
        f"of which silent {result['silent_failures']} (rate < {result['silent_upper95']:.4f} at 95 %)"
    )
    codes = sorted({code for line in lines for code in line["reasons"]})
    print("; ".join(f"{code} {sum(code in line['reasons'] for line in lines)}" for code in codes))


def show_bins(lines: list[dict[str, Any]]) -> None:
    """How it goes over Einstein radius and the arc's S/N."""
    for name, edges, value in (
        ("theta_E", (0.8, 1.1, 1.55, 2.15, 3.0), lambda f: f["truth"]["theta_E"]),
        ("arc S/N", (0, 30, 60, 120, 1e9), lambda f: f["arc_snr"]),
    ):
        print(f"\n{name:>16}{'n':>6}{'good':>8}{'wrong':>8}{'68 %':>8}{'95 %':>8}{'sigma/theta_E':>15}")
        for low, high in pairwise(edges):
            inside = [f for f in lines if low <= value(f) < high]
            fits = [(f["parameters"]["theta_E"], f["truth"]["theta_E"]) for f in inside if f["parameters"]]
            if not fits:
                continue
            off = np.array([abs(p["below"] - 0.5) for p, _ in fits])
            good = np.mean([f["status"] == "good" for f in inside])
            wrong = sum(is_wrong(f) for f in inside if f["parameters"])
            width = np.median([p["sigma"] / t for p, t in fits])
            span = f"{low:g} to {high:g}" if high < 1e9 else f"above {low:g}"
            cover = f"{(off < 0.34).mean():8.3f}{(off < 0.475).mean():8.3f}"
            print(f"{span:>16}{len(inside):6d}{good:8.3f}{wrong:8d}{cover}{width:15.4f}")


def fitted(jobs: list[tuple[str, int, int, bool]], processes: int, out: Path) -> Iterator[dict[str, Any]]:
    """The jobs' lines as they come, each appended to `out`."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=os.nice, initargs=(5,)) as pool, out.open("a", encoding="utf-8") as file:
        for line in pool.imap_unordered(one, jobs):
            file.write(json.dumps(line) + "\n")
            file.flush()
            yield line


def read(out: Path, seed: int, masked: bool) -> list[dict[str, Any]]:
    """Whole lines of an earlier run with the same options; a last line that was cut off is passed over."""
    lines = []
    for text in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if (line["seed"], line["masks"]) == (seed, masked):
            lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="lenses of the first table (default 1000)")
    parser.add_argument("--misfit", type=int, help="lenses a row of the second table; default: a tenth of --n")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--masks", action="store_true", help="start from true masks instead of the image alone")
    parser.add_argument("--out", type=Path, help="JSON lines, one a lens; default: a temporary file")
    parser.add_argument("--resume", action="store_true", help="keep what --out has")
    parser.add_argument("--quick", action="store_true", help="100 lenses, no second table")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    count = 100 if options.quick else options.n
    misfit = 0 if options.quick else count // 10 if options.misfit is None else options.misfit
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary) / "recovery.jsonl"
        if out.exists() and not options.resume:
            parser.error(f"{out} exists: --resume keeps it, another --out leaves it alone")
        wanted = {(v, i) for v in VARIANTS for i in range(misfit if VARIANTS[v] else count)}
        lines = {(line["variant"], line["index"]): line for line in read(out, options.seed, options.masks)}
        lines = {key: line for key, line in lines.items() if key in wanted}
        jobs = [(v, i, options.seed, options.masks) for v, i in sorted(wanted - set(lines))]
        for line in fitted(jobs, options.jobs, out):
            lines[line["variant"], line["index"]] = line
    results = {}
    for variant, sentence in VARIANTS.items():
        mine = [lines[key] for key in sorted(lines) if key[0] == variant]
        if not mine:
            continue
        results[variant] = figures(mine)
        show(sentence or "as modelled", mine, results[variant])
        if not sentence:
            show_bins(mine)
    if options.json:
        main_table = results.pop("as modelled")
        print(json.dumps({**main_table, "misfit": results, "masks": options.masks, "quick": options.quick}))


if __name__ == "__main__":
    main()
