"""``train_estimates``: a network that says where the deflector is and how strong, from simulated lenses whose truth is
known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lenspipe.errors import LenspipeError
from lenspipe.nets.config import EstimatorConfig
from lenspipe.products import ESTIMATOR, LAYERS, SHARD, WEIGHTS
from lenspipe.stage import Inputs, Outputs, Resources, Stage
from lenspipe.stages.training import Facts, Learnable, Training, TrainingConfig, closing, gather
from lenspipe.types import DEFLECTOR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lenspipe.io.shards import Shard
    from lenspipe.io.weights import Card
    from lenspipe.nets.estimator import Estimator
    from lenspipe.train.data import Objects
    from lenspipe.train.problem import Problem

    Gaussians = tuple[NDArray[np.float64], NDArray[np.float64]]


class TrainEstimatesConfig(TrainingConfig):
    """Options of ``train_estimates``."""

    name: str = Field("estimates", description="of the weights; stands as origin with every estimate they make")
    net: EstimatorConfig = Field(EstimatorConfig(), description="the network")
    segmenter: Path | None = Field(
        None,
        description="folder of the weights whose masks the network sees too; null: those that the workflow trains, or "
        "none without any",
    )
    max_epochs: int = Field(60, ge=1, description="passes over the training set")
    batch_size: int = Field(32, ge=1, description="cutouts in a step, all ranks together")
    learning_rate: float = Field(2e-3, gt=0, description="at its highest")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "32-true", description="of the layers' arithmetic; the loss is float32 in any case"
    )


def run(config: TrainEstimatesConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    import numpy as np

    from lenspipe.io import weights
    from lenspipe.io.atomic import content_hash
    from lenspipe.nets.estimates import in_pixels
    from lenspipe.nets.normalise import WORDS

    objects, facts, known = gather("train_estimates", config, inputs, _truth)
    truth = in_pixels(np.concatenate(known), facts.pixel_scale)
    objects = replace(objects, truth=truth.astype(np.float32))
    config, masks = _chosen(config, facts, inputs.get(WEIGHTS.name), inputs[SHARD.name])
    output: Path = outputs[ESTIMATOR.name]
    also = content_hash(config.segmenter) if config.segmenter else ""
    training = Training("train_estimates", config, objects, facts, output, seed, also)
    result = training.run(problem)

    net = estimator(config, facts)
    net.load_state_dict(result.weights)
    net.eval()
    calibration, metrics = _assessed(net, config, objects)
    output.mkdir()
    card = weights.Card(
        name=config.name,
        architecture=type(net).__name__,
        options=config.net.model_dump(mode="json"),
        survey=config.survey,
        bands=facts.bands,
        pixel_scale=facts.pixel_scale,
        classes=DEFLECTOR,
        normalisation=f"inside the network: {WORDS[config.net.scaling]}",
        training={**training.facts_of(result), "masks": masks},
        metrics={name: round(value, 4) for name, value in metrics.items()},
        calibration=calibration,
        versions={p: version(p) for p in ("lenspipe", "torch", "lightning", "timm")},
    )
    weights.save(output, net.state_dict(), card)
    (output / "MODEL_CARD.md").write_text(_words(card), encoding="utf-8")
    levels = [name for name in result.history[0] if name.startswith("val_coverage")]
    figures = training.leave(result, [name.removeprefix("val_") for name in levels], "coverage")
    return {"figures": {**card.metrics, **figures}}


def problem(config: TrainEstimatesConfig, objects: Objects, facts: Facts) -> Problem:
    """What is trained."""
    import torch

    from lenspipe.train.problem import Estimation

    net = estimator(config, facts)
    assert objects.truth is not None
    net.learn_units(torch.as_tensor(objects.truth[objects.of("train")]))
    return Estimation(net, masks_by(config.segmenter, flips=False) if config.segmenter else None)


def estimator(config: TrainEstimatesConfig, facts: Facts) -> Estimator:
    """The network, untrained."""
    from lenspipe.nets.estimator import Estimator

    return Estimator(config.net, len(facts.bands))


def masks_by(folder: Path, flips: bool) -> Callable[[Tensor], Tensor]:
    """(N, B, H, W) images to the (N, C, H, W) class probabilities that ``segment`` finds with the weights in `folder`,
    on the images' device."""
    from lenspipe.nets.predict import predict
    from lenspipe.stages.segment import load_segmenter, temperature

    net, _, card = load_segmenter(folder)
    divisor = temperature(card, flips)

    def masks(image: Tensor) -> Tensor:
        net.to(image.device)
        # A clone may take part in what is differentiated; what comes out of inference mode may not.
        return predict(net, image, flips, divisor).to(image.device).clone()

    return masks


def _truth(shard: Shard) -> Learnable:
    """Rows of the objects whose deflector is known, and its parameters (K, 7)."""
    import numpy as np

    table = shard.table()
    if missing := [name for name in DEFLECTOR if f"true_{name}" not in table]:
        raise LenspipeError(
            f"{shard.path}: has no column true_{missing[0]}; estimates are learnt from what simulate makes."
        )
    truth = np.stack([np.asarray(table[f"true_{name}"], dtype=np.float64) for name in DEFLECTOR], axis=1)
    if (truth[:, DEFLECTOR.index("theta_E")] <= 0).any():
        raise LenspipeError(f"{shard.path}: a true_theta_E is not above 0.")
    rows = np.flatnonzero(np.isfinite(truth).all(1))
    return Learnable(rows, truth[rows])


def _chosen(
    config: TrainEstimatesConfig, facts: Facts, trained: Path | None, shards: dict[str, Path]
) -> tuple[TrainEstimatesConfig, str]:
    """`config` with everything chosen, and the name of the weights that make its masks, or ``none``."""
    from lenspipe.io.shards import Shard
    from lenspipe.stages.segment import load_segmenter

    folder = config.segmenter or trained
    if config.net.masks and folder is None:
        raise LenspipeError("train_estimates.net.masks: true: there is no network that segments; name a segmenter.")
    seen, name = folder is not None and config.net.masks is not False, "none"
    if seen:
        assert folder is not None
        with Shard(next(iter(shards.values()))) as shard:
            name = load_segmenter(folder, shard, config.survey)[2].name
    window = config.net.window or min(facts.shape)
    net = config.net.model_copy(update={"masks": seen, "window": window})
    return config.model_copy(update={"net": net, "segmenter": folder if seen else None}), name


def _assessed(
    net: Estimator, config: TrainEstimatesConfig, objects: Objects
) -> tuple[dict[str, float], dict[str, float]]:
    """The scales on sigma, of single answers and of those averaged over turns, by the validation objects; and figures
    of the calibrated averages on the test objects, empty where there are none."""
    import numpy as np
    import torch

    from lenspipe.nets.estimates import Coverage, calibrated, estimate, factor_of, fit_scales, joined
    from lenspipe.train.data import EvaluationSet

    assert objects.truth is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net.to(device)
    masks = masks_by(config.segmenter, flips=True) if config.segmenter else None

    def gaussians(part: str, flips: bool) -> Gaussians:
        batches = (image.to(device) for image, _ in EvaluationSet(objects, part, 2 * config.batch_size))
        return joined(estimate(net, image, masks and masks(image), flips) for image in batches)

    def truth(part: str) -> NDArray[np.float64]:
        assert objects.truth is not None
        return objects.truth[objects.of(part)].astype(np.float64)

    scales = {flips: fit_scales(*gaussians("validation", flips), truth("validation")) for flips in (False, True)}
    kept = {f"{name}{'_flips' if flips else ''}": v for flips in scales for name, v in scales[flips].items()}
    metrics: dict[str, float] = {}
    if len(objects.of("test")):
        mean, covariance = gaussians("test", True)
        coverage = Coverage()
        factor = factor_of(torch.as_tensor(calibrated(covariance, scales[True])))
        coverage.update(torch.as_tensor(mean), factor, torch.as_tensor(truth("test")))
        metrics = {name: float(value) for name, value in coverage.compute().items()}
        radius = DEFLECTOR.index("theta_E")
        error = np.abs(np.expm1(mean[:, radius] - truth("test")[:, radius]))
        metrics["theta_E_median_rel_error"] = float(np.median(error))
    net.cpu()
    return kept, metrics


def _words(card: Card) -> str:
    """The card for people."""
    return f"""# {card.name}: {card.architecture} ({card.options["name"]}) for {card.survey}

Estimates {", ".join(card.classes)} of the deflector, and their covariance, from the image of a lens. Fits begin there;
no prior is made of them. Of an object that is no lens the answer means nothing.

* input: bands {", ".join(card.bands)} in physical units, {card.pixel_scale} arcsec per pixel
* of an image: {card.options["window"]} pixels each way in the middle
* masks that it sees: {card.training["masks"]}
* normalisation: {card.normalisation}
* output: a Gaussian, lengths in pixels, theta_E by its logarithm

* factors on sigma, by the validation objects: {", ".join(f"{n} {v:.3f}" for n, v in card.calibration.items())}

## On held-out lenses (calibrated, averaged over flips and turns; rms in pixels, of theta_E relative)

{closing(card)}"""


STAGE = Stage(
    name="train_estimates",
    inputs=(SHARD,),
    outputs=(ESTIMATOR,),
    optional=(LAYERS, WEIGHTS),
    config=TrainEstimatesConfig,
    run=run,
    outside=lambda config: [config.segmenter] if config.segmenter else [],
    talk="torch",
    resources=Resources(cpus=2, gpus=1, memory_gb=4.0, minutes=240.0),
    summary="Train a network that estimates Einstein radius, centre, ellipticity and shear, with their covariance.",
)
