"""Every kind of file a run leaves, its path and its schema version: the one table of paths.

Paths are relative to a corridor's folder ``RUN/CORRIDOR/``. ``{key}`` makes a product a family with one
member per key (a candidate id or a shard name); ``{aa}`` is a two-digit fan-out of the key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """A kind of file (or, where `directory`, of folder) that stages make and read.

    A `shared` one may be read in another corridor than the one that made it: a network's weights are.
    `shown` is what a user is pointed to when a run ends: a file within a folder, or empty for the product itself.
    """

    name: str
    path: str
    schema: int = 1
    directory: bool = False
    shared: bool = False
    shown: str | None = None

    @property
    def keyed(self) -> bool:
        return "{key}" in self.path

    def at(self, key: str = "") -> str:
        """Path of one member, relative to the corridor."""
        return self.path.format(key=key, aa=hashlib.blake2b(key.encode(), digest_size=1).hexdigest())


SIMULATIONS = Product("simulations", "simulations.fits")
LAYERS = Product("layers", "layers.h5")
LABELS = Product("labels", "labels.h5")
PARTS = Product("parts", "parts.ecsv")
"""Index of what is simulated for a learner: columns ``key`` (``FIRST-LAST``), ``n``."""
SAMPLES = Product("samples", "samples/{key}.h5")
CONTACT = Product("contact", "contact", directory=True, shown="")
"""``CLASS.png``: the first objects of each class."""
LABEL_SHEET = Product("label_sheet", "labels.png")
"""The first objects with their labels, to look at."""
SHARDS = Product("shards", "shards.ecsv")
"""Index of the shards: columns ``key``, ``n``."""
SHARD = Product("shard", "shards/{key}.h5")
INDEX = Product("index", "index.parquet")
"""Where each object lies: columns id, shard, row."""
INTAKE = Product("intake", "intake.ecsv")
"""One row per input object: id, file, row, shard, status ``ok | failed``, reason, detail, notes."""
WEIGHTS = Product("weights", "weights", directory=True, shared=True)
"""``model.safetensors``, ``card.json``, ``MODEL_CARD.md``, ``metrics.csv``, ``curves.png``."""
MASKS = Product("masks", "masks/{key}.h5")
ESTIMATOR = Product("estimator", "estimator", directory=True, shared=True)
"""The same files as `WEIGHTS`, of the network that estimates the deflector."""
ESTIMATES = Product("estimates", "estimates/{key}.h5")
CANDIDATES = Product("candidates", "candidates.ecsv")
"""One row per object that was segmented: id, key, selected, the figures of the rule, truth where known."""
BUNDLE = Product("bundle", "bundles/{aa}/{key}.h5")
MODEL = Product("model", "models/{aa}/{key}", directory=True)
"""``fit.json posterior.h5 model.fits model.png corner.png trace.png sheet.png parameters.txt``."""
FAILURES = Product("failures", "failures.json")
"""Written by the driver: stage -> key -> {reason, detail} of every unit that was quarantined upstream."""
LENSES = Product("lenses", "lenses.ecsv", shown="")
LENSES_PARQUET = Product("lenses_parquet", "lenses.parquet")
FIGURES = Product("figures", "figures.json")
REPORT = Product("report", "report", directory=True, shown="index.html")
