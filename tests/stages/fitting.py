"""The stage `model` on mock lenses, here or as a process of its own that can be killed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from lenspipe.io.shards import write_bundle
from lenspipe.stages import model
from tests.infer.mock import lens

QUICK = {
    "figures": False,
    "search": {"starts": 3, "radii": 6, "finalists": 2},
    "sampler": {"burn": 20, "min_steps": 300, "max_steps": 300},
}


def bundles(folder: Path, *names: str) -> dict[str, Path]:
    """Bundles of lenses that differ in their noise, each the same whenever it is made."""
    paths = {}
    for name in names:
        cutout, masks = lens(size=31, seed=ord(name[-1]))
        paths[name] = folder / f"{name}.h5"
        write_bundle(paths[name], replace(cutout, id=name), masks)
    return paths


def fit(inputs: dict[str, Path], out: Path, options: dict[str, object] | None = None) -> dict[str, object]:
    """Run the stage; the folders are ``out/NAME``."""
    out.mkdir(exist_ok=True)
    config = model.ModelConfig.model_validate(QUICK | (options or {}))
    return model.run(config, {"bundle": inputs}, {"model": {name: out / name for name in inputs}}, seed=7)


if __name__ == "__main__":
    from lenspipe.infer.likelihood import Likelihood

    evaluated = 0

    def counted(original):
        def call(self, vectors, *args):
            global evaluated
            evaluated += len(vectors)
            return original(self, vectors, *args)

        return call

    for method in ("non_negative", "residuals"):
        setattr(Likelihood, method, counted(getattr(Likelihood, method)))
    model.EVERY = 0.0
    failed = fit({Path(p).stem: Path(p) for p in sys.argv[2:]}, Path(sys.argv[1]))
    print(json.dumps({**failed, "evaluated": evaluated}))
