"""Toy stages: a registry of the same form as `lenspipe.stages`, small enough to run in any process in no time."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from astropy.table import Table
from pydantic import Field

from lenspipe.config import Config, nearest
from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.products import FAILURES, FIGURES, LABELS, MASKS, MODEL, SHARD, SHARDS, WEIGHTS
from lenspipe.stage import Inputs, Outputs, Own, Resources, Stage, for_each, seed_for

logger = logging.getLogger(__name__)


class Deep(Config):
    level: int = Field(1, description="how far down")
    names: tuple[str, ...] = ()


class MakeConfig(Config):
    n: int = 9
    value: int = 1
    lost: tuple[str, ...] = ()
    deep: Deep = Deep()
    source: tuple[Path, ...] = ()  # files from elsewhere


def make(config: MakeConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    keys = [f"{i:03d}" for i in range(config.n)]
    for key in keys:
        outputs["shard"][key].write_text(f"{key} {config.value} {''.join(p.read_text() for p in config.source)}\n")
    Table({"key": keys, "n": [1] * len(keys)}).write(outputs["shards"], format="ascii.ecsv")
    return {"failed": {k: {"reason": "file_truncated", "detail": f"{k} is cut"} for k in config.lost}}


class WorkConfig(Config):
    offset: int = 0
    kill: tuple[str, ...] = ()  # keys that kill their process
    kill_once: str = ""  # folder in which the first attempt at a key of `kill` leaves its mark
    refuse: tuple[str, ...] = ()
    bug: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    seconds: float = 0.0
    same: bool = False
    tuning: Path | None = None  # a folder from elsewhere
    user_mistake: bool = False
    full: bool = False
    special: Path | None = None  # key -> what is said of it alone, as JSON


def work(config: WorkConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    if config.user_mistake:
        raise LenspipeError("the pixel scale is not given.")
    if config.full:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("a library's own words") from error

    def one(key: str) -> None:
        print(f"working on {key} in {os.getpid()}")
        if key in config.slow:
            time.sleep(config.seconds)
        mark = Path(config.kill_once) / key
        if key in config.kill and not (config.kill_once and mark.exists()):
            if config.kill_once:
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if key in config.refuse:
            raise CandidateError(Reason.IMAGE_CONSTANT, f"{key}: all pixels are 0")
        if key in config.bug:
            raise ZeroDivisionError("a bug")
        text = inputs["shard"][key].read_text().split()[0] if config.same else inputs["shard"][key].read_text()
        draw = f"{seed_for(seed, key) % 1000} {special(config).get(key, ('', ()))[0]}".strip()
        outputs["masks"][key].write_text(f"{text.strip()} {config.offset} {draw}\n")

    return {"failed": for_each(inputs["shard"], one)}


def special(config: WorkConfig) -> dict[str, tuple[Any, tuple[Path, ...]]]:
    said = json.loads(config.special.read_text()) if config.special else {}
    return {key: (entry, (Path(entry),) if entry.startswith("/") else ()) for key, entry in said.items()}


def apart(config: WorkConfig) -> list[str]:
    return [key for key, (entry, _) in special(config).items() if entry == "slow"]


class PolishConfig(Config):
    pass


def polish(config: PolishConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    for key, path in inputs["masks"].items():
        outputs["model"][key].mkdir()
        (outputs["model"][key] / "fit.json").write_text(path.read_text())
    return {}


class GatherConfig(Config):
    title: str = "all"
    fail: bool = False


def gather(config: GatherConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    if config.fail:
        raise CandidateError(Reason.FILE_UNREADABLE, "nothing to gather")
    rows = {key: path.read_text() for key, path in inputs["masks"].items()}
    failures = json.loads(inputs["failures"].read_text())
    outputs["figures"].write_text(json.dumps({"title": config.title, "rows": rows, "failures": failures}))
    return {"figures": {"n": len(rows)}}


class TeachConfig(Config):
    pass


def teach(config: TeachConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    outputs["weights"].mkdir()
    (outputs["weights"] / "card.json").write_text(inputs["labels"].read_text() if "labels" in inputs else "untaught")
    return {}


STAGES = {
    stage.name: stage
    for stage in (
        Stage("make", (), (SHARDS, SHARD), MakeConfig, make, outside=lambda c: c.source, summary="Make shards."),
        Stage(
            "work",
            (SHARD,),
            (MASKS,),
            WorkConfig,
            work,
            over=SHARDS,
            optional=(WEIGHTS,),
            outside=lambda c: [c.tuning] if c.tuning else [],
            own=Own("special", special, apart),
            resources=Resources(per_task=4, minutes=1),
            summary="Work on shards.",
        ),
        Stage("polish", (MASKS,), (MODEL,), PolishConfig, polish, over=SHARDS),
        Stage("gather", (MASKS, FAILURES), (FIGURES,), GatherConfig, gather, headline=("n",), summary="Gather."),
        Stage("teach", (), (WEIGHTS,), TeachConfig, teach, optional=(LABELS,), resources=Resources(cpus=64)),
    )
}


def get(name: str) -> Stage:
    if name not in STAGES:
        raise LenspipeError(f"there is no stage {name!r}{nearest(name, list(STAGES))}")
    return STAGES[name]
