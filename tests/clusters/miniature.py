"""The pipeline in miniature: four candidates from FITS to the catalogue, by any route with the same result."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from lenspipe.io.catalogue import read_ecsv
from tests.backends.processes import MARK, ended, marked
from tests.test_end_to_end import QUICK, write_folder

ROOT = Path(__file__).parents[2]
NAMES = ("first", "second", "third", "fourth")
SETS = (
    *QUICK,
    "convert.source=cutouts",
    "convert.survey={bands: [g, r, i], pixel_scale: 0.2637, zero_point: 30, orientation: north-up-east-left}",
    "select.all=true",
    "model.figures=false",
)
ABOUT_THE_MACHINE = ("engine", "device", "versions", "folder", "seconds")
"""Columns that may differ between machines and runs."""


class Miniature:
    """``lenspipe`` in a folder with four cutouts; whatever is left of it in the end is ended."""

    def __init__(self, folder, environment):
        self.folder, self.root, self.mark = folder, folder / "run", uuid.uuid4().hex
        self.environment = {**environment, MARK: self.mark, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
        for seed, name in enumerate(NAMES, 1):
            write_folder(folder / "cutouts" / name, seed)

    def __call__(self, *argv, patience=400, code=0):
        """What a command says; it must end with exit code `code`."""
        sets = [word for text in SETS for word in ("--set", text)] if argv[0] in ("run", "submit") else []
        done = subprocess.run(
            [sys.executable, "-m", "lenspipe", *map(str, argv), *sets],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def made(self):
        """What every route must make alike: the catalogue's rows, and the content hash of every shard and mask."""
        table = read_ecsv(self.root / "search/lenses.ecsv")
        columns = [name for name in table.colnames if name not in ABOUT_THE_MACHINE]
        rows = {row["id"]: {name: str(row[name]) for name in columns} for row in table}
        assert set(rows) == set(NAMES)
        units = ended(self.root)
        assert {len(receipts) for receipts in units.values()} == {1}
        receipts = [receipt for (receipt,) in units.values()]
        kinds = ("shard/", "masks/", "bundle/")
        hashes = {k: v["hash"] for r in receipts for k, v in r["outputs"].items() if k.startswith(kinds)}
        assert {name.split("/")[0] for name in hashes} == {"shard", "masks", "bundle"}
        return rows, hashes

    def receipts(self, stage):
        """Key -> receipt."""
        paths = (self.root / ".lenspipe/receipts/search" / stage).rglob("*.json")
        return {receipt["key"]: receipt for receipt in (json.loads(path.read_text()) for path in paths)}

    def end(self):
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)
