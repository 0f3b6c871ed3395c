"""``label``: four pixel classes from the noiseless layers, by signal to noise or by a rule that others use."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lenspipe import __version__
from lenspipe.config import Config
from lenspipe.label.reference import Thresholds
from lenspipe.products import LABEL_SHEET, LABELS, LAYERS
from lenspipe.stage import Inputs, Outputs, Stage

if TYPE_CHECKING:
    import h5py
    import numpy as np
    from numpy.typing import NDArray

_CHUNK = 512


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
    shown: int = Field(48, ge=1, description="objects on the sheet: lenses, as many others, each kind of them in turn")


def run(config: LabelConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    import h5py
    import numpy as np

    from lenspipe.io.hdf5 import created, size_of
    from lenspipe.sim.scene import LAYERS as LAYER_NAMES
    from lenspipe.types import CLASSES

    background = CLASSES.index("background")
    counts = np.zeros(len(CLASSES), dtype=np.int64)
    present = np.zeros(len(CLASSES), dtype=np.int64)
    with ExitStack() as files:
        layers = files.enter_context(h5py.File(inputs[LAYERS.name], "r"))
        n, _, height, width = layers["source"].shape
        ids = layers["id"].asstr()[:]
        f = files.enter_context(created(outputs[LABELS.name], size_of(ids) + n * height * width))
        f.create_dataset("id", data=ids, dtype=h5py.string_dtype())
        result = f.create_dataset("label", (n, height, width), "u1", chunks=(1, height, width))
        for start in range(0, n, _CHUNK):
            rows = slice(start, start + _CHUNK)
            source, lens, others = (layers[name][rows] for name in LAYER_NAMES)
            found = classes(config, source, lens, others, layers["sky_rms"][rows])
            result[rows] = found
            counts += np.bincount(found.ravel(), minlength=len(CLASSES))
            present += [(found == c).any((1, 2)).sum() for c in range(len(CLASSES))]
        f.attrs.update(schema=LABELS.schema, classes=list(CLASSES), lenspipe=__version__)
        f.attrs["config"] = config.model_dump_json()
        _sheet(outputs[LABEL_SHEET.name], layers, result, config.shown)
    fractions = counts / counts.sum()
    figures = {f"fraction_{name}": round(float(value), 4) for name, value in zip(CLASSES, fractions)}
    figures |= {f"images_with_{name}": int(k) for c, (name, k) in enumerate(zip(CLASSES, present)) if c != background}
    return {"figures": figures}


def classes(
    config: LabelConfig,
    source: NDArray[np.float32],
    lens: NDArray[np.float32],
    others: NDArray[np.float32],
    sky_rms: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """(N, H, W) indices into `CLASSES` by the chosen rule, of layers (N, B, H, W) on skies of rms (N, B), one unit."""
    from lenspipe.label import masks, quantile, reference

    if config.rule == "snr":
        return masks.label(source, lens, others, sky_rms, config.threshold)
    if config.rule == "quantile":
        return quantile.label(source, lens, others, sky_rms, config.lens_quantile, config.arc_quantile, config.floor)
    return reference.label(source, lens, others, config.reference)


def _sheet(path: Path, layers: h5py.File, label: h5py.Dataset, n: int) -> None:
    """Lenses in the first half, named by theta_E and, where these are known, the redshifts; then the others by kind."""
    import numpy as np

    from lenspipe.sim.scene import LAYERS as LAYER_NAMES
    from lenspipe.view.labelled import labelled_sheet

    kinds = layers["kind"].asstr()[:].tolist() if "kind" in layers else [""] * len(label)
    rows = chosen(kinds, n)
    known = [layers[f"truth/{name}"][:] for name in ("theta_E", "z_lens", "z_source") if f"truth/{name}" in layers]

    def name(row: int) -> str:
        values = [float(column[row]) for column in known]
        if kinds[row] != "lens" or not values:
            return kinds[row]
        redshifts = [f"{z:.1f}" for z in values[1:]]
        return " ".join([f'{values[0]:.2f}"', *(["z", *redshifts] if redshifts else [])])

    whole = ["image"] if "image" in layers else LAYER_NAMES
    labelled_sheet(
        path,
        image=np.stack([sum(layers[layer][row] for layer in whole) for row in rows]),
        rms=np.stack([layers["sky_rms"][row] for row in rows]),
        bands=[str(band) for band in layers.attrs.get("bands", range(layers["source"].shape[1]))],
        label=np.stack([label[row] for row in rows]),
        names=[name(row) for row in rows] if any(kinds) else (),
    )


def chosen(kinds: Sequence[str], n: int) -> list[int]:
    """Up to `n` rows: lenses, then the other kinds, each kind together; half and half where there are enough."""
    held: dict[str, list[int]] = {}
    for row, kind in enumerate(kinds):
        held.setdefault(kind, []).append(row)
    lenses = held.pop("lens", [])
    room = max(n - len(lenses), n // 2) if held else 0
    turns = [(turn, kind) for kind, rows in held.items() for turn in range(len(rows))]
    taken = sorted(sorted(turns)[:room], key=lambda item: item[1])
    return lenses[: n - len(taken)] + [held[kind][turn] for turn, kind in taken]


STAGE = Stage(
    name="label",
    inputs=(LAYERS,),
    outputs=(LABELS, LABEL_SHEET),
    config=LabelConfig,
    run=run,
    version=2,
    summary="Label every pixel source, lens, noise (other objects) or background from noiseless layers.",
)
