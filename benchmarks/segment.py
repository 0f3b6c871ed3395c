"""What the segmentation reaches on simulations that no training saw, and the reference recipe on the same data.

Every training and its test is a workflow of its own, as a user would write it: one corridor simulates, labels and
trains, another simulates lenses and non-lenses under other ids, labels and segments them. The same seed gives the same
objects to every one of them. IoU is that of the pixels of all test lenses, pooled by class; macro IoU the mean of the
four classes.

* S/N labels, the default rule, by the default network; and by others, an equal number of minutes each (--nets).
* Reference labels, by the same network and by the reference recipe: a ResNet-50 U-Net on the enlarged image, scaled to
  0..1 over all bands, Jaccard loss, batches of 5, learning rate 1e-4, noise as it was simulated, no flips at the test.
  Its encoder starts from chance or from --encoder-weights. What it did wrong (softmax after training with sigmoid,
  augmented validation images) is not done again.
* The oracle: a fit that knows every layer but for its brightness in each band, its place, its size and a shear, each
  uncertain as the noise has it (Cramer-Rao, with a prior of 50 % in brightness, 1 pixel, 30 % in shape). It labels by
  the same rule; no network can be expected to do better.
* Quantile masks at 125x125 pixels, of one JWST-like band, lenses alone, trained longer: the IoU of a class, and its
  mean with that of all the rest, which others report.
* Real images nobody trained on, with --data DIR: how many of the DES backgrounds in DIR/des_backgrounds/BAND.fits.gz,
  none of which shows a lens, pass the default rule of `select` with the default network; and how many of the lenses in
  DIR/slacs (HST) and of the one in DIR/euclid_q1 do, with networks trained on the presets hst_acs and euclid. Pictures
  of their masks go to --pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from lenspipe.io.catalogue import read_ecsv
from lenspipe.io.masks import read_answers, read_masks
from lenspipe.io.shards import Shard
from lenspipe.nets.metrics import CalibrationError, NearIoU, Scores
from lenspipe.sim.survey import Survey
from lenspipe.stages.label import LabelConfig, classes
from lenspipe.types import CLASSES
from lenspipe.view.labelled import labelled_sheet

SEED = 20261121
AREA = 20
"""Source pixels from which an object counts as one with an arc."""
FACTS = {"unit": "flux at the zero point", "orientation": "north-up-east-left"}
DES = {
    "simulate": {"supersampling": 2},
    "convert": {"survey": {**FACTS, "bands": ["g", "r", "i"], "zero_point": 30, "pixel_scale": 0.2637}},
}
JWST = {
    "simulate": {
        "supersampling": 2,
        "n_nonlenses": 0,
        "survey": {"preset": "jwst_nircam", "bands": ["F150W"], "n_pixels": 125},
    },
    "convert": {"survey": {**FACTS, "bands": ["F150W"], "zero_point": 28.9, "pixel_scale": 0.03}},
}
REAL = {
    "slacs": {
        "simulate": {"supersampling": 2, "survey": {"preset": "hst_acs", "bands": ["F814W"]}},
        "convert": {"survey": {**FACTS, "bands": ["F814W"], "zero_point": 25.94, "pixel_scale": 0.05}},
        "files": "slacs",
    },
    "euclid": {
        "simulate": {"supersampling": 2, "survey": {"preset": "euclid", "bands": ["VIS"]}},
        "convert": {"survey": {**FACTS, "bands": ["VIS"], "zero_point": 23.9, "pixel_scale": 0.1}},
        "files": "euclid_q1/1020*.fits.gz",
    },
}
"""Lenses of other telescopes: what a network is trained on, and where their images lie."""
SHOWN = 10.0
"""arcsec; the side of what a picture shows of a real image."""
RECIPE = {
    "net": {
        "name": "smp_unet",
        "encoder": "resnet50",
        "encoder_options": {},
        "depth": 5,
        "decoder_channels": [256, 128, 64, 32, 16],
        "full_resolution": False,
        "upsample": 2,
        "scaling": "minmax",
    },
    "loss": {"cross_entropy": 0, "dice": 0, "jaccard": 1},
    "batch_size": 5,
    "learning_rate": 1e-4,
    "max_epochs": 8,
    "redraw_noise": False,
}


def trained_and_tested(
    folder: Path, survey: dict[str, Any], rule: str, train: dict[str, Any], sizes: tuple[int, int], flips: bool = True
) -> Path:
    """Run the workflow in `folder`, or take what an earlier call left there, and return the corridor of the test.

    Parameters
    ----------
    sizes : lenses, and as many non-lenses unless `survey` says how many, to train on and to test.
    """

    def simulated(prefix: str, n: int) -> dict[str, Any]:
        options = {"prefix": prefix, "n_lenses": n, "n_nonlenses": n, **survey["simulate"]}
        return {"simulate": options, "label": {"rule": rule}, "convert": survey["convert"]}

    corridors = {
        "training": {**simulated("SIM", sizes[0]), "train": {"test": 0, **train}},
        "test": {**simulated("TEST", sizes[1]), "segment": {"flips": flips}},
    }
    return done(folder, corridors) / "test"


def done(folder: Path, corridors: dict[str, Any], fine: tuple[int, ...] = (0,)) -> Path:
    """The run of a workflow in `folder`, or what an earlier call left there; `fine` are exit codes to go on with."""
    folder.mkdir(parents=True, exist_ok=True)
    workflow = folder / "workflow.yaml"
    workflow.write_text(yaml.safe_dump({"name": "segment", "seed": SEED, "corridors": corridors}))
    command = [sys.executable, "-m", "lenspipe", "run", str(workflow), "--out", str(folder / "run")]
    code = subprocess.run([*command, "--site-set", "backend=inline"], check=False, stdout=sys.stderr).returncode
    if code not in fine:
        sys.exit(code)
    return folder / "run"


def real_images(data: Path, work: Path, weights: Path, train: dict[str, Any], n: int, pictures: Path) -> dict[str, int]:
    """How many backgrounds and lenses of `data` there are, and how many `select` takes.

    Parameters
    ----------
    weights : of the network for the DES backgrounds.
    train : options of the networks for the others, which `n` lenses and as many non-lenses train.
    """
    # What cannot be used at all is quarantined and the rest goes on.
    usable = (0, 3)
    bands = json.loads((weights / "card.json").read_text())["bands"]
    source = {band: str(data / "des_backgrounds" / f"{band}.fits.gz") for band in bands}
    seeing = {band.name: band.psf_fwhm for band in Survey().bands if band.name in bands}
    facts = {**DES["convert"]["survey"], "bands": bands, "psf_fwhm": seeing}
    search = {"convert": {"source": source, "survey": facts}, "segment": {"weights": str(weights)}, "select": {}}
    rows = read_ecsv(done(work / "backgrounds", {"search": search}, usable) / "search" / "candidates.ecsv")
    figures = {"n_backgrounds": len(rows), "backgrounds_selected": int(np.sum(rows["selected"]))}
    for name, survey in REAL.items():
        facts = {key: survey["convert"]["survey"][key] for key in ("bands", "pixel_scale")}
        training = {"simulate": {**survey["simulate"], "n_lenses": n, "n_nonlenses": n}, "label": {}}
        corridors = {
            "training": {**training, "convert": survey["convert"], "train": {"survey": name, "test": 0, **train}},
            "search": {
                "convert": {"source": str(data / survey["files"]), "survey": facts},
                "segment": {},
                "select": {},
            },
        }
        corridor = done(work / name, corridors, usable) / "search"
        rows = read_ecsv(corridor / "candidates.ecsv")
        figures |= {f"n_{name}": len(rows), f"{name}_selected": int(np.sum(rows["selected"]))}
        picture(corridor, pictures / f"segmented_{name}.png")
    return figures


def picture(corridor: Path, path: Path) -> None:
    """The middle of every image of a corridor above the classes of its pixels."""
    images, labels, rms, names = [], [], [], []
    bands: tuple[str, ...] = ()
    for file in sorted((corridor / "shards").glob("*.h5")):
        probability = read_masks(corridor / "masks" / file.name)[1]
        with Shard(file) as shard:
            bands = shard.bands
            height, width = probability.shape[-2:]
            side = min(round(SHOWN / shard.pixel_scale), height, width)
            top, left = (height - side) // 2, (width - side) // 2
            middle = np.s_[..., top : top + side, left : left + side]
            for row, name in enumerate(shard.ids):
                cutout = shard.cutout(row)
                images.append(np.where(cutout.valid, cutout.image, np.nan)[middle])
                rms.append(np.median(cutout.sigma, axis=(1, 2)))
                names.append(name[:14])
            labels += [each.argmax(0).astype(np.uint8)[middle] for each in probability]
    path.parent.mkdir(parents=True, exist_ok=True)
    labelled_sheet(
        path,
        image=np.stack(images),
        rms=np.stack(rms),
        bands=bands,
        label=np.stack(labels),
        names=names,
        side=160,
        columns=6,
    )


def measured(corridor: Path) -> dict[str, float]:
    """Scores of the test corridor's masks."""
    lenses, near, calibration = Scores(), NearIoU(), CalibrationError()
    area: dict[bool, list[int]] = {True: [], False: []}
    answers: dict[bool, list[bool]] = {True: [], False: []}
    strange: list[float] = []
    for path in sorted((corridor / "shards").glob("*.h5")):
        with Shard(path) as shard:
            is_lens = shard.table()["is_lens"].astype(bool)
            label = torch.as_tensor(np.asarray(shard.labels()), dtype=torch.long)
        masks = corridor / "masks" / path.name
        probability = torch.as_tensor(read_masks(masks)[1])
        found = read_answers(masks)
        best, chosen = probability.argmax(1), torch.as_tensor(is_lens)
        lenses.update(best[chosen], label[chosen])
        near.update(best[chosen], label[chosen])
        calibration.update(probability, label)
        pixels = (best == CLASSES.index("source")).sum((1, 2))
        for kind in (True, False):
            area[kind] += pixels[is_lens == kind].tolist()
            answers[kind] += found.arc_found[is_lens == kind].tolist()
        strange += found.familiarity.tolist()
    scores = {name: float(value) for m in (lenses, near, calibration) for name, value in m.compute().items()}
    return scores | {
        "lens_recovery": share(area[True], lambda pixels: pixels >= AREA),
        "nonlens_with_source": share(area[False], lambda pixels: pixels >= AREA),
        "lens_no_arc": share(answers[True], lambda found: not found),
        "nonlens_no_arc": share(answers[False], lambda found: not found),
        "unfamiliar_1_percent": share(strange, lambda p: p < 0.01),
    }


def share(values: list[Any], holds: Callable[[Any], bool]) -> float:
    """Of `values`, those for which it holds; NaN where there are none."""
    return sum(map(holds, values)) / len(values) if values else np.nan


def ceiling(corridor: Path, rule: Literal["snr", "reference", "quantile"]) -> dict[str, float]:
    """Scores of the oracle on the test lenses."""
    rng, score = np.random.default_rng(SEED), Scores()
    truth = labels_by_id(corridor)
    with h5py.File(corridor / "layers.h5") as f:
        for row, name in enumerate(f["id"].asstr()[:]):
            if name not in truth or not f["source"][row].any():
                continue
            layers = np.stack([f[kind][row] for kind in ("source", "lens", "others")]).astype(np.float64)
            rms = f["sky_rms"][row].astype(np.float64)
            gain = f["exposure_time"][row].astype(np.float64)
            made = refitted(layers, rms, gain, rng)
            found = classes(LabelConfig(rule=rule), *made[:, None].astype(np.float32), rms[None])
            score.update(torch.as_tensor(found.astype(np.int64)), torch.as_tensor(truth[name][None].astype(np.int64)))
    return {name: float(value) for name, value in score.compute().items()}


def labels_by_id(corridor: Path) -> dict[str, NDArray[np.uint8]]:
    with h5py.File(corridor / "labels.h5") as f:
        return dict(zip(f["id"].asstr()[:], f["label"][:]))


def refitted(
    layers: NDArray[np.float64], rms: NDArray[np.float64], gain: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """(3, B, H, W) layers as a fit at the Cramer-Rao limit finds them, linear in its parameters."""
    _, bands, height, width = layers.shape
    variance = rms[:, None, None] ** 2 + np.clip(layers.sum(0), 0, None) / gain[:, None, None]
    columns, owners, priors = [], [], []
    for number, layer in enumerate(layers):
        if not layer.any():
            continue
        y, x = np.indices((height, width), dtype=np.float64)
        weight = layer.sum(0) / layer.sum()
        y, x = y - (weight * y).sum(), x - (weight * x).sum()
        of_y, of_x = np.gradient(layer, axis=(1, 2))
        scaled = [layer * (np.arange(bands) == b)[:, None, None] for b in range(bands)]
        distorted = [of_x * x + of_y * y, of_x * x - of_y * y, of_x * y + of_y * x]
        columns += [*scaled, of_x, of_y, *distorted]
        owners += [number] * (bands + 5)
        priors += [0.5] * bands + [1.0] * 2 + [0.3] * 3
    jacobian = np.stack(columns).reshape(len(columns), -1)
    fisher = (jacobian / variance.ravel()) @ jacobian.T + np.diag(1 / np.square(priors))
    step = np.linalg.solve(np.linalg.cholesky(fisher).T, rng.standard_normal(len(columns)))
    made = layers.copy()
    for number, column, size in zip(owners, columns, step):
        made[number] += size * column
    return np.clip(made, 0, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12, help="of training for each network")
    parser.add_argument("--quantile-minutes", type=float, default=25, help="of training for those on quantile masks")
    parser.add_argument("--nets", nargs="*", default=["isnet", "msrfnet"], help="others on S/N labels, by their names")
    parser.add_argument("--encoder-weights", type=Path, help="for the reference recipe, a file with those of ResNet-50")
    parser.add_argument("--lenses", type=int, default=1800, help="and as many non-lenses, to train on")
    parser.add_argument("--data", type=Path, help="folder with real images: des_backgrounds, slacs, euclid_q1")
    parser.add_argument("--pictures", type=Path, help="folder for the masks of real lenses; default: that of --work")
    parser.add_argument("--work", type=Path, help="keep the runs here, and go on from what lies there")
    parser.add_argument("--quick", action="store_true", help="a look: small nets, few objects, seconds of training")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        result = everything(options, options.work or Path(temporary))
    result |= {"minutes": (time.monotonic() - start) / 60, "training_minutes": options.minutes, "quick": options.quick}
    result |= {"quantile_training_minutes": options.quantile_minutes}
    result |= {"cores": len(os.sched_getaffinity(0)), "device": "cuda" if torch.cuda.is_available() else "cpu"}
    table(result)
    if options.json:
        # What is not defined (a class that does not occur) is null: JSON knows no NaN.
        print(json.dumps(json.loads(json.dumps(result), parse_constant=lambda _: None)))


def everything(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    sizes, wide = (options.lenses, 400), (options.lenses, 200)
    common: dict[str, Any] = {"max_minutes": options.minutes, "max_epochs": 60}
    recipe = {**common, **RECIPE}
    others = {name: {**common, "net": {"name": name}} for name in options.nets}
    longer = {"max_minutes": options.quantile_minutes}
    quantile_nets = {"default": common | longer} | {k: v | longer for k, v in others.items() if k == "isnet"}
    if options.encoder_weights:
        recipe["encoder_weights"] = str(options.encoder_weights.resolve())
    if options.quick:
        sizes, wide = (64, 24), (24, 8)
        common |= {"max_epochs": 3, "net": {"name": "unet", "channels": [16, 24, 32]}}
        recipe |= {"max_epochs": 1, "batch_size": 16, "net": {**RECIPE["net"], "encoder": "resnet18"}}
        others, quantile_nets = {}, {"default": {**common, "max_epochs": 1}}

    snr = trained_and_tested(work / "snr", DES, "snr", common, sizes)
    same_rule = trained_and_tested(work / "reference-rule", DES, "reference", common, sizes)
    as_reference = trained_and_tested(work / "reference-recipe", DES, "reference", recipe, sizes, flips=False)
    details = {"snr": measured(snr), "reference_rule": measured(same_rule), "reference_recipe": measured(as_reference)}
    details |= {f"snr_{k}": measured(trained_and_tested(work / k, DES, "snr", v, sizes)) for k, v in others.items()}
    quantile = {
        k: measured(trained_and_tested(work / f"quantile-{k}", JWST, "quantile", v, wide))
        for k, v in quantile_nets.items()
    }
    real = {}
    if options.data:
        weights = (snr.parent / "training" / "weights").resolve()
        real = real_images(options.data.resolve(), work, weights, common, wide[0], options.pictures or work)
    ceilings = {
        "snr": ceiling(snr, "snr")["macro_iou"],
        "reference_rule": ceiling(same_rule, "reference")["macro_iou"],
        "quantile_arc": ceiling(work / "quantile-default/run/test", "quantile")["iou_source_with_background"],
    }
    best, default = details["snr"], quantile["default"]
    return {
        "macro_iou": best["macro_iou"],
        "macro_iou_reference_rule": details["reference_rule"]["macro_iou"],
        "macro_iou_reference_recipe": details["reference_recipe"]["macro_iou"],
        "oracle": ceilings,
        "oracle_fraction": best["macro_iou"] / ceilings["snr"],
        "oracle_fraction_reference_rule": details["reference_rule"]["macro_iou"] / ceilings["reference_rule"],
        "lens_iou_quantile": default["iou_lens_with_background"],
        "arc_iou_quantile": default["iou_source_with_background"],
        "lens_iou_quantile_foreground": default["iou_lens"],
        "arc_iou_quantile_foreground": default["iou_source"],
        **{name: best[name] for name in ("ece", "nonlens_with_source", "lens_recovery")},
        "iou": {name: best[f"iou_{name}"] for name in CLASSES},
        "near_iou": {name: best[f"near_iou_{name}"] for name in CLASSES},
        **real,
        "details": {**details, **{f"quantile_{k}": v for k, v in quantile.items()}},
    }


def table(result: dict[str, Any]) -> None:
    print(f"{'':28}" + "".join(f"{name:>12}" for name in ("macro", *CLASSES, "within 1 px", "ece")))
    for name, scores in result["details"].items():
        keys = ("macro_iou", *(f"iou_{c}" for c in CLASSES), "near_macro_iou", "ece")
        print(f"{name:28}" + "".join(f"{scores[key]:12.3f}" for key in keys))
    print("oracle: " + ", ".join(f"{name} {value:.3f}" for name, value in result["oracle"].items()))
    print(
        f"{AREA} source pixels or more: {result['lens_recovery']:.1%} of the lenses, "
        f"{result['nonlens_with_source']:.1%} of the non-lenses"
    )
    for name in ("backgrounds", *REAL):
        if f"n_{name}" in result:
            print(f"real images that select takes: {result[f'{name}_selected']} of {result[f'n_{name}']} {name}")
    print(
        "quantile masks: lens {lens_iou_quantile:.3f}, arc {arc_iou_quantile:.3f} with the background, "
        "{lens_iou_quantile_foreground:.3f} and {arc_iou_quantile_foreground:.3f} alone; {minutes:.0f} min".format(
            **result
        )
    )


if __name__ == "__main__":
    main()
