"""Runs of toy workflows, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lenspipe.backends.inline import open_inline
from lenspipe.run.capacity import machine
from lenspipe.run.driver import Driver
from lenspipe.run.graph import build
from lenspipe.run.ledger import Ledger
from lenspipe.run.progress import Lines
from lenspipe.run.workflow import Workflow, load
from tests.run import toys

SEARCH: dict[str, Any] = {"make": {}, "work": {}, "gather": {}}


def flow(folder: Path, stages: dict[str, Any] | None = None, sets: tuple[str, ...] = (), **more: Any) -> Workflow:
    """A checked workflow with one corridor, ``search``, or those in `more`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "flow.yaml"
    corridors = {"search": SEARCH if stages is None else stages, **more}
    path.write_text(yaml.safe_dump({"name": "toy", "seed": 1, "corridors": corridors}))
    return load(path, sets, toys.get)


def drive(root: Path, what: Workflow, **options: Any) -> tuple[Driver, int]:
    """One run in process: the driver as it ended, and the exit code."""
    ledger, graph = Ledger(root), build(what.instances)
    ledger.begin(what.name, [(item.corridor, item.stage.name) for item in graph.order])
    driver = Driver(graph, root, machine(2), ledger, Lines(), **options)
    return driver, driver.run(lambda: open_inline(root, toys.get))


@pytest.fixture
def again(tmp_path: Path) -> Callable[..., tuple[Driver, int]]:
    """Run the toy workflow in one folder, with overrides; call it as often as needed."""

    def run(*sets: str, stages: dict[str, Any] | None = None, **options: Any) -> tuple[Driver, int]:
        return drive(tmp_path / "run", flow(tmp_path, stages, sets), **options)

    return run


def ran(driver: Driver) -> dict[str, int]:
    """Stage -> units that ran, those that did."""
    return {node.stage.name: node.ran for node in driver.nodes if node.ran}
