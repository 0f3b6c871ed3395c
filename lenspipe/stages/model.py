"""model: fit every selected candidate; each leaves a folder of its own."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lenspipe import __version__
from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.infer.batch.memory import MOST
from lenspipe.infer.config import FitConfig
from lenspipe.io.atomic import replacing
from lenspipe.products import BUNDLE, CANDIDATES, MODEL
from lenspipe.stage import Inputs, Outputs, Own, Resources, Stage, for_each, seed_for
from lenspipe.types import Cutout, Estimate, Masks

if TYPE_CHECKING:
    from lenspipe.infer.fit import Fit
    from lenspipe.io.checkpoint import FileCheckpoint

log = logging.getLogger(__name__)


EVERY = 30.0
"""Seconds between two looks at whether a fit under way is worth saving."""
_NO_GPU = ("", "-1", "10000")
"""CUDA_VISIBLE_DEVICES of a worker that has been given none; the last is HTCondor's."""


class ModelConfig(FitConfig):
    """Options of the fit, and what is drawn of it."""

    figures: bool = Field(default=True, description="draw model, corner, trace and sheet")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="of the fits' tensor programs; auto: a GPU where one is seen"
    )
    together: int | None = Field(
        default=None,
        ge=1,
        description="candidates fitted as one tensor program; null: as many as a GPU has memory for, else one by one",
    )
    memory_gb: float | None = Field(
        default=None, gt=0, description="for such a program's temporaries; null: 4 on a GPU, a cache's worth on a CPU"
    )
    compile: Literal["auto"] | bool = Field(
        default="auto", description="such programs through torch.compile: on, off; auto: on a GPU"
    )
    candidates: Path | None = Field(
        default=None, description="YAML file: id -> priors, options, redshifts and masks of that candidate alone"
    )


def run(config: ModelConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    """Fit each bundle of the task; one that cannot be fitted fails alone."""
    from lenspipe.io.shards import read_bundle
    from lenspipe.stages.overrides import read

    overrides = read(config.candidates, config) if config.candidates else {}
    bundles = inputs[BUNDLE.name]
    checkpoints = []

    def prepare(key: str) -> Callable[[], Callable[[], Any]]:
        """What fits candidate `key` and returns what writes it down."""
        cutout, masks, estimate, columns = read_bundle(bundles[key])
        truth = {n.removeprefix("true_"): float(v) for n, v in columns.items() if n.startswith("true_")}
        options, redshifts = config, None
        if own := overrides.get(key):
            cutout, masks = own.drawn_on(cutout, masks)
            options, redshifts = own.over(config), own.entry.redshifts
        folder, own_seed = outputs[MODEL.name][key], seed_for(seed, key)
        checkpoint = checkpoint_of(folder.with_name(key), cutout, masks, options, own_seed, estimate)
        checkpoints.append(checkpoint)

        def work() -> Callable[[], Any]:
            try:
                found = fitted(cutout, masks, options, own_seed, checkpoint, redshifts, estimate)
            except LenspipeError as error:
                raise LenspipeError(f"{config.candidates}: {key}: {error}" if own else str(error)) from None
            return lambda: to_folder(found, cutout, masks, options, own_seed, folder, truth)

        return work

    def one(key: str) -> None:
        prepare(key)()()

    last = [key for key in bundles if _by_itself(overrides[key].over(config) if key in overrides else config)]
    keys = [key for key in bundles if key not in last]
    device, together = _device(config), config.together
    if keys and (device == "cuda" or (together or 1) > 1):
        failed = _together(keys, prepare, config, device, lambda: _largest(bundles[key] for key in keys))
    else:
        failed = for_each(keys, one)
    # The others have been written down by now: they wait for none of these, which may take minutes.
    failed |= for_each(last, one)
    # Not before: the first of a batch whose process dies over the last has to be taken up again too.
    for checkpoint in checkpoints:
        checkpoint.remove()
    return {"failed": failed}


def checkpoint_of(
    final: Path,
    cutout: Cutout,
    masks: Masks | None,
    config: ModelConfig,
    seed: int,
    estimate: Estimate | None = None,
) -> FileCheckpoint:
    """Where a fit whose results go to `final` keeps its chains meanwhile: ``.NAME.checkpoint.npz`` beside that folder.

    What was left by a fit of other data, options, seed or versions is passed over.
    """
    from lenspipe.io.checkpoint import FileCheckpoint, digest

    options = config.model_dump(mode="json", include=set(FitConfig.model_fields))
    identity = digest(cutout, masks, estimate, options, seed, _versions())
    return FileCheckpoint(final.with_name(f".{final.name}.checkpoint.npz"), identity, EVERY)


def _by_itself(config: FitConfig) -> bool:
    """Whether a fit with these options stands in no tensor program: while it ran there all others would wait for it."""
    return config.engine in ("kernel", "lenstronomy") or bool(config.model.foreign) or config.preset != "default"


def _without_gpu(config: ModelConfig) -> bool:
    """Whether nothing of a fit with these options can run on a GPU."""
    return config.device == "cpu" or _by_itself(config)


def _device(config: ModelConfig) -> str:
    """Where the tensor programs run."""
    if _without_gpu(config):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if config.device == "cuda" or given not in _NO_GPU:
        asked = "model.device: cuda" if config.device == "cuda" else f"GPU {given} is this worker's"
        log.warning("%s, and torch sees no GPU (lenspipe doctor says what it sees): on with the CPU", asked)
    return "cpu"


def _largest(bundles: Iterable[Path]) -> tuple[int, tuple[int, int]]:
    """Bands and shape of the image with most pixels."""
    from lenspipe.io.shards import Shard

    shapes = []
    for path in bundles:
        with Shard(path) as shard:
            shapes.append(shard.shape)
    bands, height, width = max(shapes, key=math.prod)
    return bands, (height, width)


def _together(
    keys: list[str],
    prepare: Callable[[str], Callable[[], Callable[[], Any]]],
    config: ModelConfig,
    device: str,
    largest: Callable[[], tuple[int, tuple[int, int]]],
) -> dict[str, dict[str, str]]:
    """Many candidates at a time; what has been fitted is written down while others are. Returns as `for_each`."""
    import torch

    from lenspipe.infer.batch.broker import Broker
    from lenspipe.infer.batch.memory import at_once, budget

    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
    temporaries = budget(free, config.memory_gb and config.memory_gb * 1e9, device)
    count = config.together
    if count is None:
        bands, shape = largest()
        count = at_once(free, temporaries, shape, bands, config)
        log.info("%s, %.0f GB free: %d candidates at once", torch.cuda.get_device_name(), free / 1e9, count)
    compiled = device == "cuda" if config.compile == "auto" else config.compile
    if compiled:
        _keep_compiled()
    broker = Broker(device, temporaries, compiled)
    fits = [partial(_prepared, prepare, key) for key in keys]
    answers = broker.run(fits, min(count, len(keys)), then=lambda write: write())
    failed = {}
    for key, answer in zip(keys, answers):
        if isinstance(answer, CandidateError):
            failed[key] = {"reason": str(answer.reason), "detail": answer.detail}
        elif isinstance(answer, Exception):
            raise answer
    return failed


def _keep_compiled() -> None:
    """Say where what torch.compile makes is kept, unless the environment does: compiled once for all runs of a user."""
    import torch

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "lenspipe" / f"torch-{torch.__version__}"))


def _prepared(prepare: Callable[[str], Callable[[], Any]], key: str) -> Any:
    return prepare(key)()


def fitted(
    cutout: Cutout,
    masks: Masks | None,
    config: ModelConfig,
    seed: int,
    checkpoint: FileCheckpoint,
    redshifts: tuple[float, float] | None = None,
    estimate: Estimate | None = None,
) -> Fit:
    """Fit one candidate."""
    import torch

    from lenspipe.infer.fit import fit

    log.info("%s: fitting", cutout.id)
    with torch.no_grad():
        return fit(cutout, masks, config, seed, redshifts, checkpoint, estimate)


def to_folder(
    result: Fit,
    cutout: Cutout,
    masks: Masks | None,
    config: ModelConfig,
    seed: int,
    folder: Path,
    truth: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Write everything there is about one fitted candidate into `folder`. Returns the content of ``fit.json``."""
    import numpy as np

    from lenspipe.infer.summary import summarise
    from lenspipe.io.model_fits import write_model_fits
    from lenspipe.io.posterior import write_posterior

    versions = _versions()
    summary = summarise(result, cutout, masks.origin if masks else "none", seed, versions)
    log.info("%s: %s in %.1f s", cutout.id, summary["status"], result.seconds)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fit.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    result.posterior.meta.update(
        id=cutout.id,
        walkers=result.chains.u.shape[2],
        priors=result.priors.describe(),
        config=result.config.model_dump(mode="json"),
        versions=versions,
        seed=seed,
    )
    write_posterior(folder / "posterior.h5", result.posterior)
    images = result.images
    planes = {
        "DATA": images.data,
        "SIGMA": images.sigma,
        "MODEL": images.model,
        "RESIDUAL": np.where(images.mask, (images.data - images.model) / images.sigma, 0),
        "MASK": images.mask,
        "SOURCE": images.source,
        "LENSLIGHT": images.lens_light,
    }
    write_model_fits(folder / "model.fits", cutout, planes, result.prepared.origin)
    from lenspipe.view.text import parameters_text

    (folder / "parameters.txt").write_text(parameters_text(summary), encoding="utf-8")
    if config.figures:
        _draw(folder, result, summary, cutout, masks, truth)
    return summary


def failure_to_folder(name: str, error: CandidateError, out: Path) -> dict[str, Any]:
    """``fit.json`` of a candidate that could not be fitted, in ``out/name/`` if the name is fit to be a folder's."""
    unknown = dict.fromkeys(("median", "p16", "p84", "mean", "sigma")) | {"unit": "arcsec"}
    summary = {
        "id": name,
        "status": "failed",
        "reasons": [{"code": str(error.reason), "sentence": error.detail}],
        "sampler_converged": False,
        "parameters": {"theta_E": unknown},
        "derived": {},
        "versions": _versions(),
    }
    if error.reason is not Reason.ID_INVALID:
        with replacing(out / name) as folder:
            folder.mkdir()
            (folder / "fit.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("numpy", "torch", "emcee", "lenstronomy")}
    return {"lenspipe": __version__, "python": platform.python_version(), **libraries}


def _draw(
    folder: Path,
    result: Any,
    summary: dict[str, Any],
    cutout: Cutout,
    masks: Masks | None,
    truth: dict[str, float] | None,
) -> None:
    import numpy as np

    from lenspipe.infer.fit import FINER
    from lenspipe.view.critical import critical_curves
    from lenspipe.view.figures import corner_figure, model_figure, trace_figure
    from lenspipe.view.sheet import sheet_figure

    images, posterior = result.images, result.posterior
    with np.errstate(divide="ignore"):
        magnification = 1 / images.inverse_magnification
    critical = critical_curves(magnification, cutout.pixel_scale / FINER)
    shared = {
        "bands": cutout.bands,
        "image": images.data,
        "model": images.model,
        "sigma": images.sigma,
        "valid": images.mask,
        "pixel_scale": cutout.pixel_scale,
        "magnification": magnification,
        "critical_curves": critical,
        "caustics": [result.to_source(line) for line in critical],
        "source_plane": images.source_plane,
        "source_extent": images.source_extent,
    }
    model_figure(folder / "model.png", title=cutout.id, unit=cutout.unit, **shared)
    row, column = result.prepared.origin
    height, width = images.data.shape[1:]
    probability = None if masks is None else masks.probability[:, row : row + height, column : column + width]
    sheet_figure(
        folder / "sheet.png",
        fit=summary,
        masks=probability,
        masks_origin="" if masks is None else masks.origin,
        ra=cutout.ra,
        dec=cutout.dec,
        cd=cutout.cd,
        truth=truth,
        **shared,
    )
    names, units, samples = posterior.names, posterior.units, posterior.samples
    true = np.array([truth.get(n, np.nan) for n in names]) if truth else None
    flat = samples.reshape(-1, samples.shape[-1])
    corner_figure(folder / "corner.png", flat, names, units, posterior.best, true)
    quality = result.chains.diagnostics
    trace_figure(folder / "trace.png", samples, names, units, posterior.log_prob, quality.rhat, quality.ess)


def _said(config: ModelConfig) -> dict[str, tuple[Any, tuple[Path, ...]]]:
    from lenspipe.stages.overrides import read

    found = read(config.candidates, config) if config.candidates else {}
    return {name: (override.said, override.files) for name, override in found.items()}


def _apart(config: ModelConfig) -> frozenset[str]:
    """Ids of the candidates whose own options, other than those of the rest, let them stand in no program."""
    if config.candidates is None or _by_itself(config):
        return frozenset()
    from lenspipe.stages.overrides import read

    found = read(config.candidates, config)
    return frozenset(name for name, own in found.items() if _by_itself(own.over(config)))


STAGE = Stage(
    "model",
    over=CANDIDATES,
    inputs=(BUNDLE,),
    outputs=(MODEL,),
    config=ModelConfig,
    run=run,
    own=Own("candidates", _said, _apart),
    resources=Resources(gpus=1, memory_gb=2, memory_more_gb=0.05, minutes=30, minutes_more=0.5, per_gpu=MOST),
    without_gpu=_without_gpu,
    summary="Fit a lens model to every selected candidate.",
)
