"""``label``: four pixel classes from the noiseless layers, by signal to noise."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lenspipe import __version__
from lenspipe.config import Config
from lenspipe.products import LABELS, LAYERS
from lenspipe.stage import Inputs, Outputs, Stage

_CHUNK = 512


class LabelConfig(Config):
    """Options of ``label``."""

    threshold: float = Field(
        2.0, gt=0, description="S/N of a layer in one pixel, all bands together, below which it is background"
    )


def run(config: LabelConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    import h5py
    import numpy as np

    from lenspipe.label.masks import label
    from lenspipe.sim.population import LAYERS as LAYER_NAMES
    from lenspipe.types import CLASSES

    counts = np.zeros(len(CLASSES), dtype=np.int64)
    with h5py.File(inputs[LAYERS.name], "r") as layers, h5py.File(outputs[LABELS.name], "w", libver="v110") as f:
        n, _, height, width = layers["source"].shape
        f.create_dataset("id", data=layers["id"][:], dtype=h5py.string_dtype())
        result = f.create_dataset("label", (n, height, width), "u1", chunks=(1, height, width))
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            source, lens, others = (layers[name][rows] for name in LAYER_NAMES)
            classes = label(source, lens, others, layers["sky_rms"][rows], config.threshold)
            result[rows] = classes
            counts += np.bincount(classes.ravel(), minlength=len(CLASSES))
        f.attrs.update(schema=LABELS.schema, classes=list(CLASSES), threshold=config.threshold, lenspipe=__version__)
    fractions = counts / counts.sum()
    return {"figures": {f"fraction_{name}": round(float(value), 4) for name, value in zip(CLASSES, fractions)}}


STAGE = Stage(
    name="label",
    inputs=(LAYERS,),
    outputs=(LABELS,),
    config=LabelConfig,
    run=run,
    summary="Label every pixel source, lens, noise (other objects) or background from noiseless layers.",
)
