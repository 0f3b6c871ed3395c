"""Outputs as the engine hands them to a stage."""

from pathlib import Path


class Family(dict):
    """A path for whatever key is asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __missing__(self, key):
        self[key] = self.folder / f"{key}.h5"
        return self[key]
