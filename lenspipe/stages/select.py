"""select: which of the segmented objects are modelled, by a stated rule; a bundle for each of them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lenspipe import products
from lenspipe.config import Config
from lenspipe.stage import Inputs, Outputs, Resources, Stage

if TYPE_CHECKING:
    from lenspipe.types import Cutout, Estimate, Masks

log = logging.getLogger(__name__)


class SelectConfig(Config):
    """The rule: a lens galaxy near the centre, and enough convincing source pixels at a lens's distance from it.

    A pixel belongs to a class where its probability exceeds 0.5; pixels that touch (also by a corner) form a blob.
    The lens is the lens-class blob with most probability of those that come within `max_lens_offset` of the
    cutout's centre. Source pixels are those of source-class blobs that come within `max_distance` of the lens.
    """

    all: bool = Field(False, description="take everything that was segmented, as for folders of known lenses")
    min_source_pixels: int = Field(12, ge=1, description="pixels of the source class")
    min_source_probability: float = Field(0.7, ge=0.5, le=1, description="mean over the source pixels")
    max_lens_offset: float = Field(1.5, gt=0, description="arcsec from the cutout's centre")
    min_distance: float = Field(0.3, ge=0, description="arcsec, mean over the source pixels, from the lens's centroid")
    max_distance: float = Field(6.0, gt=0, description="arcsec, likewise")
    min_background_probability: float = Field(
        0.75, ge=0.5, le=1, description="of the pixels from which noise is measured again where no noise map came"
    )
    min_familiarity: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="p-value for being like the images that the network was trained on; of such images this part is "
        "lost, and what has none passes",
    )
    subtract_sky: bool = Field(
        False,
        description="take the level of the background pixels off the image where no noise map came; on small cutouts "
        "that level holds the wings of the lens, so do it only where the sky has not been subtracted",
    )


@dataclass(frozen=True)
class Verdict:
    """What the rule measured of one object; `why` names the part that failed, empty where none did.

    source_area, lens_area : pixels. source_probability : mean. distance : arcsec, NaN without lens or source.
    """

    why: str
    source_area: int = 0
    source_probability: float = float("nan")
    lens_area: int = 0
    distance: float = float("nan")


def judge(masks: Masks, pixel_scale: float, config: SelectConfig) -> Verdict:
    """Apply the rule to one object's probabilities."""
    import numpy as np
    from scipy import ndimage

    touching = np.ones((3, 3), dtype=bool)
    source, lens = masks.of("source"), masks.of("lens")
    rows, columns = (np.asarray(axis) for axis in np.indices(lens.shape))
    centre = (lens.shape[0] - 1) / 2, (lens.shape[1] - 1) / 2
    offset = pixel_scale * np.hypot(rows - centre[0], columns - centre[1])
    blobs, n = ndimage.label(lens > 0.5, touching)
    near = np.setdiff1d(np.unique(blobs[offset <= config.max_lens_offset]), [0])
    if n == 0 or not near.size:
        return Verdict(f"no lens within {config.max_lens_offset:g} arcsec of the centre")
    chosen = blobs == near[np.argmax(ndimage.sum_labels(lens, blobs, near))]
    y, x = (float(np.average(axis[chosen], weights=lens[chosen])) for axis in (rows, columns))
    distance = pixel_scale * np.hypot(rows - y, columns - x)
    blobs, _ = ndimage.label(source > 0.5, touching)
    arc = np.isin(blobs, np.setdiff1d(np.unique(blobs[distance <= config.max_distance]), [0]))
    if not arc.any():
        return Verdict("no arc found", lens_area=int(chosen.sum()))
    area, probability, mean = int(arc.sum()), float(source[arc].mean()), float(distance[arc].mean())
    why = ""
    if area < config.min_source_pixels:
        why = f"only {area} source pixels, fewer than {config.min_source_pixels}"
    elif probability < config.min_source_probability:
        why = f"mean source probability {probability:.2f}, below {config.min_source_probability:g}"
    elif not config.min_distance <= mean <= config.max_distance:
        why = f"source at {mean:.2f} arcsec, outside {config.min_distance:g} to {config.max_distance:g}"
    return Verdict(why, area, probability, int(chosen.sum()), mean)


def remeasure(cutout: Cutout, masks: Masks, config: SelectConfig) -> Cutout:
    """`cutout` with sigma, and on request sky, from its background-class pixels."""
    import numpy as np

    from lenspipe.infer.noise import measure_background, total_sigma

    blank = masks.of("background") > config.min_background_probability
    image, sigma, rms = cutout.image.copy(), cutout.sigma.copy(), cutout.background_rms.copy()
    notes = list(cutout.notes)
    for b, band in enumerate(cutout.bands):
        sky, scatter = measure_background(image[b], cutout.valid[b], blank)
        whence = "background pixels"
        if not (np.isfinite(scatter) and scatter > 0):
            sky, scatter = measure_background(image[b], cutout.valid[b])
            whence = "the whole cutout, which has too few background pixels"
        sigma[b] = total_sigma(image[b], sky, scatter, float(cutout.exposure_time[b]))
        rms[b] = scatter
        done = "left in"
        if config.subtract_sky:
            image[b] = np.where(cutout.valid[b], image[b] - np.float32(sky), image[b])
            done = "subtracted"
        notes.append(f"band {band}: background rms {scatter:.4g}, sky {sky:.4g} ({done}), from {whence}")
    return replace(cutout, image=image, sigma=sigma, background_rms=rms, notes=tuple(notes))


def run(config: SelectConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io import catalogue, shards
    from lenspipe.io.estimates import read_estimates
    from lenspipe.io.masks import read_answers, read_masks
    from lenspipe.types import Masks

    index = catalogue.read_ecsv(inputs["shards"])
    estimate_files = inputs.get(products.ESTIMATES.name, {})
    rows: list[dict[str, Any]] = []
    units = {"distance_arcsec": "arcsec", "ra": "deg", "dec": "deg"}
    lengths = ("center_x", "center_y", "theta_E")
    units |= {f"estimated_{name}{end}": "arcsec" for name in lengths for end in ("", "_sigma")}
    for key in (str(k) for k in index["key"]):
        if key not in inputs["shard"]:
            continue
        with shards.Shard(inputs["shard"][key]) as shard:
            found: dict[str, Masks] = {}
            familiarity: dict[str, float] = {}
            if key in inputs["masks"]:
                ids, probability, origin = read_masks(inputs["masks"][key])
                found = {name: Masks(each, origin) for name, each in zip(ids, probability)}
                familiarity = dict(zip(ids, read_answers(inputs["masks"][key]).familiarity.tolist()))
            estimates = read_estimates(estimate_files[key]) if key in estimate_files else {}
            table, table_units = shard.table(), shard.units()
            truth = [name for name in table if name == "is_lens" or name.startswith("true_")]
            units.update({name: table_units[name] for name in truth})
            for row, name in enumerate(shard.ids):
                masks = found.get(name)
                verdict = judge(masks, shard.pixel_scale, config) if masks else Verdict("was not segmented")
                p_value = familiarity.get(name, float("nan"))
                if not verdict.why and p_value < config.min_familiarity:
                    verdict = replace(verdict, why=f"unlike the training images, p = {p_value:.2g}")
                selected = masks is not None and (config.all or not verdict.why)
                rows.append(
                    {
                        "key": name,
                        "shard": key,
                        "row": row,
                        "selected": selected,
                        "source_area": verdict.source_area,
                        "source_probability": verdict.source_probability,
                        "lens_area": verdict.lens_area,
                        "distance_arcsec": verdict.distance,
                        "familiarity": p_value,
                        "masks_origin": masks.origin if masks else "",
                        "why": verdict.why,
                        **(estimated(estimates[name]) if name in estimates else {}),
                        **{column: table[column][row].item() for column in truth},
                    }
                )
                if selected and masks is not None:
                    cutout = shard.cutout(row)
                    if cutout.sigma_measured:
                        cutout = remeasure(cutout, masks, config)
                    extra = shards.Extra(table={c: v[row : row + 1] for c, v in table.items()}, units=table_units)
                    shards.write_bundle(outputs["bundle"][name], cutout, masks, extra, estimates.get(name))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    catalogue.write_ecsv(outputs["candidates"], {c: [row.get(c) for row in rows] for c in columns}, units)
    return {"figures": figures(rows)}


def estimated(estimate: Estimate) -> dict[str, float]:
    """``estimated_NAME`` and ``estimated_NAME_sigma`` of each parameter of the deflector; theta_E's are median and
    relative sigma times median."""
    import numpy as np

    from lenspipe.types import DEFLECTOR

    values = dict(zip(DEFLECTOR, zip(estimate.mean.tolist(), np.sqrt(estimate.covariance.diagonal()).tolist())))
    logarithm, sigma = values["theta_E"]
    values["theta_E"] = (math.exp(logarithm), math.exp(logarithm) * sigma)
    return {f"estimated_{name}{end}": v for name, pair in values.items() for end, v in zip(("", "_sigma"), pair)}


def figures(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Counts; those of lenses lost and non-lenses let through only where the truth is known."""
    known = [row for row in rows if row.get("is_lens") is not None]
    counts = {"n": len(rows), "n_selected": sum(row["selected"] for row in rows)}
    if known:
        counts["lenses"] = sum(row["is_lens"] for row in known)
        counts["lenses_lost"] = sum(row["is_lens"] and not row["selected"] for row in known)
        counts["nonlenses"] = sum(not row["is_lens"] for row in known)
        counts["nonlenses_through"] = sum(not row["is_lens"] and row["selected"] for row in known)
    return counts


STAGE = Stage(
    name="select",
    inputs=(products.SHARDS, products.SHARD, products.MASKS),
    outputs=(products.CANDIDATES, products.BUNDLE),
    optional=(products.ESTIMATES,),
    config=SelectConfig,
    run=run,
    version=2,
    resources=Resources(memory_gb=2.0, minutes=60.0),
    summary="Pick the objects to model by a stated rule; say how many lenses it loses where the truth is known.",
)
