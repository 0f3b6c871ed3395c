"""Every stage as a command: the same `execute`, on the files one names."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lenspipe.config import nearest, parse
from lenspipe.errors import LenspipeError
from lenspipe.io.atomic import write_json
from lenspipe.products import FAILURES, Product
from lenspipe.ranks import Ranks, opened
from lenspipe.run.driver import UNFINISHED
from lenspipe.run.execute import execute, limit_threads
from lenspipe.run.fingerprint import Fingerprints
from lenspipe.run.graph import needs, reads
from lenspipe.run.ledger import Ledger
from lenspipe.run.lock import hold
from lenspipe.run.node import index_keys
from lenspipe.run.plan import strangers
from lenspipe.run.workflow import put, split_set
from lenspipe.stage import Stage, Task


def run_stage(stage: Stage, out: Path, sets: Sequence[str], inputs: Sequence[str], seed: int) -> int:
    """Run `stage` alone, in this process, with its products laid out under `out`; returns the exit code.

    Where a launcher started several processes for it, they work together (`lenspipe.ranks`).

    Parameters
    ----------
    sets : ``key=VALUE`` for its options.
    inputs : ``product=PATH``; for a family a folder, or several times one member. What is not named is looked for
        in `out` itself, so that stages can be run there one after the other.
    """
    with opened(stage.talk, f"lenspipe {stage.name}") as ranks:
        limit_threads(ranks.cpus)
        if ranks.rank:
            ranks.serve()
            return 0
        return _lead(ranks, stage, out, sets, inputs, seed)


def _lead(ranks: Ranks, stage: Stage, out: Path, sets: Sequence[str], inputs: Sequence[str], seed: int) -> int:
    options: dict[str, Any] = {}
    for text in sets:
        path, value = split_set(text)
        put(options, path, value, text)
    config = parse(stage.config, options, stage.name)
    out.mkdir(parents=True, exist_ok=True)
    with hold(out, say=lambda text: print(text, file=sys.stderr)):
        ledger = Ledger(out)
        if FAILURES in stage.inputs:
            write_json(out / FAILURES.path, _failures(ledger))
        found = _find(stage, out, inputs)
        keys = _keys(stage, found)
        task = Task(
            stage=stage.name,
            corridor="",
            keys=keys,
            config=config.model_dump(mode="json"),
            inputs={product.name: found[product.name] for product in reads(stage) if product.name in found},
            outputs={product.name: _output(stage, product, keys) for product in stage.outputs},
            seed=seed,
            cpus=ranks.cpus,
        )
        if stage.over is not None:
            task = _only(task, stage, keys)
        ledger.plan("", stage.name, list(keys))
        own = Fingerprints().own(stage, config)
        for sentence in strangers(own, keys, stage.name) if stage.over else []:
            print(sentence, file=sys.stderr)
        result = execute(task, stage, out)
        for receipt in result["receipts"]:
            ledger.done(receipt)
    return report(result)


def report(result: dict[str, Any]) -> int:
    """Say what went wrong in a task, one line each, and return the exit code."""
    if mistake := result.get("mistake"):
        raise LenspipeError(mistake)
    if stopped := result.get("stopped"):
        print(f"{stopped}: run it again", file=sys.stderr)
        return UNFINISHED
    if died := result.get("died"):
        print(f"{died['reason']}: {died['detail']}", file=sys.stderr)
        return 1
    code = 0
    for receipt in result["receipts"]:
        if receipt["status"] == "failed":
            print(f"{receipt['stage']} {receipt['key']}: {receipt['reason']}: {receipt['detail']}", file=sys.stderr)
            code = max(code, 3 if receipt["key"] else 1)
        for key, why in receipt["failed"].items():
            print(f"{receipt['stage']} {key}: {why['reason']}: {why['detail']}", file=sys.stderr)
            code = max(code, 3)
    return code


def _failures(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """stage -> key -> reason and detail, of the stages run by hand in this folder."""
    found: dict[str, dict[str, Any]] = {}
    for (corridor, stage, key), entry in ledger.entries.items():
        lost = {key: entry} if entry["status"] == "failed" else entry["failed"]
        if corridor == "" and lost:
            short = {k: {"reason": why["reason"], "detail": why["detail"]} for k, why in lost.items()}
            found.setdefault(stage, {}).update(short)
    return found


def _find(stage: Stage, out: Path, given: Sequence[str]) -> dict[str, Any]:
    """Product name -> path, or {key: path} of a family; absolute paths where they were given."""
    products = {product.name: product for product in needs(stage)}
    named: dict[str, list[Path]] = {}
    for text in given:
        name, _, path = text.partition("=")
        if name not in products:
            raise LenspipeError(f"--input {text}: {stage.name} has no input {name!r}{nearest(name, list(products))}")
        if not Path(path).exists():
            raise LenspipeError(f"--input {text}: {path} is not there.")
        named.setdefault(name, []).append(Path(path).resolve())
    found: dict[str, Any] = {}
    for name, product in products.items():
        here = out / (product.path.split("/")[0] if product.keyed else product.path)
        paths = named.get(name) or ([here.resolve()] if here.exists() else [])
        if not paths and product in stage.optional:
            continue
        if not paths:
            raise LenspipeError(f"{stage.name} needs {name}: give --input {name}=PATH (there is no {here}).")
        if product.keyed:
            found[name] = {key: path for item in paths for key, path in _members(product, item).items()}
        elif len(paths) > 1:
            raise LenspipeError(f"{stage.name} takes one {name}, not {len(paths)}.")
        else:
            found[name] = paths[0].as_posix()
    return found


def _members(product: Product, path: Path) -> dict[str, str]:
    """key -> path of `path` itself if it is a member of the family, else of the members in that folder."""
    if path.is_dir() != product.directory and not path.is_dir():
        raise LenspipeError(f"{path}: not a member of {product.name} ({product.path}).")
    files_inside = path.is_dir() and any(item.is_file() for item in path.iterdir())
    if product.directory == path.is_dir() and (files_inside or not product.directory):
        candidates = [path]
    else:
        candidates = sorted(path.glob("*/*" if "{aa}" in product.path and not _flat(product, path) else "*"))
    pattern = re.compile(re.escape(product.path.rsplit("/", 1)[-1]).replace(r"\{key\}", "(?P<key>[^.].*)"))
    matches = ((pattern.fullmatch(item.name), item) for item in candidates)
    found = {m["key"]: item.as_posix() for m, item in matches if m and item.is_dir() == product.directory}
    if candidates == [path] and not found:
        raise LenspipeError(f"{path}: not a member of {product.name} ({product.path}).")
    return found


def _flat(product: Product, path: Path) -> bool:
    """True if `path` holds members directly, without the two-digit fan-out."""
    return any(item.is_file() for item in path.glob("*/*")) if product.directory else any(path.glob("*.*"))


def _keys(stage: Stage, found: dict[str, Any]) -> tuple[str, ...]:
    """Units: the rows of the index, cut down to the members of a family that was given as such."""
    if stage.over is None:
        return ("",)
    keys = index_keys(Path(found[stage.over.name]))
    for product in stage.inputs:
        if product.keyed:
            keys = [key for key in keys if key in found[product.name]]
    if not keys:
        raise LenspipeError(f"{stage.name}: no key of {found[stage.over.name]} has all of its inputs.")
    return tuple(keys)


def _output(stage: Stage, product: Product, keys: tuple[str, ...]) -> Any:
    return product.path if stage.over is None else {key: product.at(key) for key in keys}


def _only(task: Task, stage: Stage, keys: tuple[str, ...]) -> Task:
    """`task` with the members of its families that belong to its keys."""
    inputs = {
        name: {key: where[key] for key in keys if key in where} if isinstance(where, dict) else where
        for name, where in task.inputs.items()
    }
    return Task.from_json({**task.to_json(), "inputs": inputs})
