"""``lenspipe fit``: one image, without a workflow; the same fit and the same files as the model stage's."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lenspipe.config import parse, read_yaml
from lenspipe.errors import CandidateError, LenspipeError
from lenspipe.io.atomic import replacing
from lenspipe.io.survey import SurveyFacts
from lenspipe.run.workflow import put, split_set
from lenspipe.stage import seed_for
from lenspipe.stages import overrides
from lenspipe.stages.model import ModelConfig, checkpoint_of, failure_to_folder, fitted, to_folder

QUARANTINED = 3
"""Exit code of a candidate that could not be used."""


def fit_command(
    image: Annotated[Path, typer.Argument(help="FITS image: (H,W), or (B,H,W) for several bands.")],
    out: Annotated[Path, typer.Option(help="Results go to OUT/ID/.", file_okay=False)],
    noise: Annotated[Path | None, typer.Option(help="FITS map of sigma per pixel (see --weight).")] = None,
    psf: Annotated[Path | None, typer.Option(help="FITS image of the PSF.")] = None,
    mask: Annotated[Path | None, typer.Option(help="FITS map; pixels that are not zero are left out.")] = None,
    weight: Annotated[bool, typer.Option("--weight", help="NOISE holds inverse variance, not sigma.")] = False,
    pixel_scale: Annotated[float | None, typer.Option(help="Arcsec per pixel; default: the header's WCS.")] = None,
    fwhm: Annotated[list[float] | None, typer.Option(help="Of a Gaussian PSF, arcsec; once, or per band.")] = None,
    beta: Annotated[float | None, typer.Option(help="Exponent of a Moffat PSF: FWHM is of it then.")] = None,
    bands: Annotated[list[str] | None, typer.Option("--band", help="Name of each band, in order.")] = None,
    background_rms: Annotated[float | None, typer.Option(help="Noise of blank sky, where there is no map.")] = None,
    exposure_time: Annotated[float | None, typer.Option(help="Effective gain: variance = flux / this.")] = None,
    zero_point: Annotated[float | None, typer.Option(help="AB magnitude of one flux unit.")] = None,
    orientation: Annotated[
        Literal["north-up-east-left", "wcs", "unknown"], typer.Option(help="How the pixels lie on the sky.")
    ] = "wcs",
    redshifts: Annotated[tuple[float, float] | None, typer.Option(help="Of lens and source.", metavar="ZL ZS")] = None,
    name: Annotated[str | None, typer.Option("--id", help="Default: the image's file name.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with options of the model stage.")] = None,
    candidates: Annotated[Path | None, typer.Option(help="YAML: id -> priors, options, redshifts, masks.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="One such option.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print fit.json last.")] = False,
) -> None:
    """Fit a lens model to one image."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    given = _options(config, sets or []) | ({"candidates": candidates} if candidates else {})
    options = parse(ModelConfig, given, str(config) if config else "fit")
    _check(redshifts, fwhm)
    names = tuple(bands or ())
    each_fwhm: Any = fwhm[0] if fwhm and len(fwhm) == 1 else fwhm
    if fwhm and len(fwhm) > 1:
        names = names or tuple(f"band{i + 1}" for i in range(len(fwhm)))
        each_fwhm = dict(zip(names, fwhm))
    survey = parse(
        SurveyFacts,
        {
            "bands": names,
            "pixel_scale": pixel_scale,
            "psf_fwhm": each_fwhm or None,
            "psf_beta": beta,
            "background_rms": background_rms,
            "exposure_time": exposure_time,
            "zero_point": zero_point,
            "orientation": orientation,
        },
        "fit",
    )
    from lenspipe.infer.noise import sigma_map
    from lenspipe.io.candidate import read_candidate
    from lenspipe.io.fits import stem

    identity = name if name is not None else stem(image)
    own = overrides.of(options.candidates, options, identity, lambda text: print(text, file=sys.stderr))
    kind: Any = "weight" if weight else "sigma"
    failed = False
    try:
        cutout = read_candidate(
            image, noise, psf, survey=survey, sigma_map=sigma_map, mask=mask, noise_kind=kind, id=identity
        )
        masks = None
        if own:
            cutout, masks = own.drawn_on(cutout, None)
            options, redshifts = own.over(options), redshifts or own.entry.redshifts
        own_seed = seed_for(seed, cutout.id)
        checkpoint = checkpoint_of(out / cutout.id, cutout, masks, options, own_seed)
        with replacing(out / cutout.id) as folder:
            found = fitted(cutout, masks, options, own_seed, checkpoint, redshifts)
            summary = to_folder(found, cutout, masks, options, own_seed, folder)
        checkpoint.remove()
    except CandidateError as error:
        failed = True
        summary = failure_to_folder(identity, error, out)
    if as_json:
        print(json.dumps(summary, allow_nan=False))
    else:
        _say(summary, out / identity)
    if failed:
        raise typer.Exit(QUARANTINED)


def _say(summary: dict[str, Any], folder: Path) -> None:
    theta_E = summary["parameters"].get("theta_E") or summary["derived"]["theta_E_effective"]
    size = "" if theta_E["median"] is None else f", theta_E = {theta_E['median']:.4f} +- {theta_E['sigma']:.4f} arcsec"
    print(f"{summary['id']}: {summary['status']}{size}")
    for reason in summary["reasons"]:
        print(f"  {reason['code']}: {reason['sentence']}")
    if folder.is_dir():
        print(f"  {folder}")


def _options(config: Path | None, sets: list[str]) -> dict[str, Any]:
    options = read_yaml(config) if config else {}
    if not isinstance(options, dict):
        raise LenspipeError(f"{config}: expected options by name.")
    for text in sets:
        path, value = split_set(text)
        put(options, path, value, text)
    return options


def _check(redshifts: tuple[float, float] | None, fwhm: list[float] | None) -> None:
    if redshifts is not None and not 0 < redshifts[0] < redshifts[1]:
        raise LenspipeError(f"--redshifts {redshifts[0]:g} {redshifts[1]:g}: expected 0 < lens < source.")
    if any(value <= 0 for value in fwhm or []):
        raise LenspipeError("--fwhm: expected arcsec above 0.")
