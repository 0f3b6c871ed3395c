"""``label``: four pixel classes from the noiseless layers, by signal to noise or by a rule that others use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lenspipe import __version__
from lenspipe.config import Config
from lenspipe.label.reference import Thresholds
from lenspipe.products import LABEL_SHEET, LABELS, LAYERS
from lenspipe.stage import Inputs, Outputs, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHUNK = 512
_SHOWN = 48
"""Objects on the contact sheet."""


class LabelConfig(Config):
    """Options of ``label``."""

    rule: Literal["snr", "quantile", "reference"] = Field(
        "snr", description="snr: the layer with most flux where it stands out of the sky; the others as peers do it"
    )
    threshold: float = Field(
        2.0, gt=0, description="S/N of a layer in one pixel, all bands together, below which it is background"
    )
    lens_quantile: float = Field(0.99, gt=0, lt=1, description="rule quantile: of the lens layer itself")
    arc_quantile: float = Field(0.95, gt=0, lt=1, description="rule quantile: of the source layer itself")
    floor: float = Field(0.0, ge=0, description="rule quantile: S/N that a pixel must have besides")
    reference: Thresholds = Field(Thresholds(), description="rule reference: its thresholds")


def run(config: LabelConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    import h5py
    import numpy as np

    from lenspipe.sim.scene import LAYERS as LAYER_NAMES
    from lenspipe.types import CLASSES
    from lenspipe.view.labelled import labelled_sheet

    background = CLASSES.index("background")
    counts = np.zeros(len(CLASSES), dtype=np.int64)
    present = np.zeros(len(CLASSES), dtype=np.int64)
    with h5py.File(inputs[LAYERS.name], "r") as layers, h5py.File(outputs[LABELS.name], "w", libver="v110") as f:
        n, _, height, width = layers["source"].shape
        f.create_dataset("id", data=layers["id"][:], dtype=h5py.string_dtype())
        result = f.create_dataset("label", (n, height, width), "u1", chunks=(1, height, width))
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            source, lens, others = (layers[name][rows] for name in LAYER_NAMES)
            classes = _classes(config, source, lens, others, layers["sky_rms"][rows])
            result[rows] = classes
            counts += np.bincount(classes.ravel(), minlength=len(CLASSES))
            present += [(classes == c).any((1, 2)).sum() for c in range(len(CLASSES))]
        f.attrs.update(schema=LABELS.schema, classes=list(CLASSES), lenspipe=__version__)
        f.attrs["config"] = config.model_dump_json()
        shown = slice(0, _SHOWN)
        labelled_sheet(
            outputs[LABEL_SHEET.name],
            image=layers["image"][shown] if "image" in layers else sum(layers[name][shown] for name in LAYER_NAMES),
            rms=layers["sky_rms"][shown],
            label=result[shown],
            names=layers["kind"].asstr()[shown].tolist() if "kind" in layers else [],
        )
    fractions = counts / counts.sum()
    figures = {f"fraction_{name}": round(float(value), 4) for name, value in zip(CLASSES, fractions)}
    figures |= {f"images_with_{name}": int(k) for c, (name, k) in enumerate(zip(CLASSES, present)) if c != background}
    return {"figures": figures}


def _classes(
    config: LabelConfig,
    source: NDArray[np.float32],
    lens: NDArray[np.float32],
    others: NDArray[np.float32],
    sky_rms: NDArray[np.float64],
) -> NDArray[np.uint8]:
    from lenspipe.label import masks, quantile, reference

    if config.rule == "snr":
        return masks.label(source, lens, others, sky_rms, config.threshold)
    if config.rule == "quantile":
        return quantile.label(source, lens, others, sky_rms, config.lens_quantile, config.arc_quantile, config.floor)
    return reference.label(source, lens, others, config.reference)


STAGE = Stage(
    name="label",
    inputs=(LAYERS,),
    outputs=(LABELS, LABEL_SHEET),
    config=LabelConfig,
    run=run,
    version=2,
    summary="Label every pixel source, lens, noise (other objects) or background from noiseless layers.",
)
