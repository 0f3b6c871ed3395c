"""``contact``: a sheet of the first objects of each class, to look at before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lenspipe.config import Config
from lenspipe.products import CONTACT, SAMPLES
from lenspipe.stage import Inputs, Outputs, Stage

if TYPE_CHECKING:
    from lenspipe.types import Samples


class ContactConfig(Config):
    """Options of ``contact``."""

    n: int = Field(12, ge=1, description="objects of each class")
    columns: int = Field(6, ge=1, description="objects side by side")


def run(config: ContactConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.view.contact import contact_sheet

    folder: Path = outputs[CONTACT.name]
    folder.mkdir()
    found = _first(list(inputs[SAMPLES.name].values()), config.n)
    for name, samples in found.items():
        contact_sheet(folder / f"{name}.png", samples, config.columns)
    return {"figures": {name: len(samples.id) for name, samples in found.items()}}


def _first(paths: list[Path], n: int) -> dict[str, Samples]:
    """The first `n` objects of each class, from as few files as hold them."""
    from lenspipe.io.samples import read_samples
    from lenspipe.types import Samples

    found: dict[str, list[Samples]] = {}
    for path in sorted(paths):
        samples = read_samples(path)
        for index, name in enumerate(samples.classes):
            parts = found.setdefault(name, [])
            missing = n - sum(len(part.id) for part in parts)
            rows = (samples.label == index).nonzero()[0][:missing]
            if len(rows):
                parts.append(samples.take(rows))
        if all(sum(len(part.id) for part in parts) == n for parts in found.values()):
            break
    return {name: Samples.join(parts) for name, parts in found.items() if parts}


STAGE = Stage(
    name="contact",
    inputs=(SAMPLES,),
    outputs=(CONTACT,),
    config=ContactConfig,
    run=run,
    summary="Draw a contact sheet of each class of what was simulated for a learner.",
)
