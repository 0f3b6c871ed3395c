"""A stage is a value; a task is what crosses machines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lenspipe.products import Product
from lenspipe.ranks import Talk

Inputs = Mapping[str, Any]
"""Product name -> `Path`, or -> ``{key: Path}`` where the product is a family."""
Outputs = Mapping[str, Any]
"""Product name -> temporary `Path`, or -> ``{key: temporary Path}``; asking for a new key makes its path."""
Run = Callable[[Any, Inputs, Outputs, int], dict[str, Any]]
"""``run(config, inputs, outputs, seed)`` -> ``{"figures": {...}, "failed": {key: {"reason", "detail"}}}``, or less."""


@dataclass(frozen=True)
class Resources:
    """What one task needs; a site scales and caps it.

    Attributes
    ----------
    cpus : cores.
    gpus : 1 if a task uses a GPU where there is one.
    gpus_required : it cannot do without.
    memory_gb : GB of memory.
    minutes : wall time for one task of `per_task` keys; past it the task is ended, its keys are tried singly.
    per_task : keys of a batch stage that one task takes.
    per_gpu : keys at most of a task on a worker with a GPU, which does them together; 0: `per_task`.
    minutes_more, memory_more_gb : for each key of a task beyond `per_task`.
    """

    cpus: int = 1
    gpus: int = 0
    gpus_required: bool = False
    memory_gb: float = 2.0
    minutes: float = 30.0
    per_task: int = 1
    per_gpu: int = 0
    minutes_more: float = 0.0
    memory_more_gb: float = 0.0

    def minutes_of(self, keys: int) -> float:
        """Wall time for one task of so many keys."""
        return self.minutes + self.minutes_more * max(keys - self.per_task, 0)

    def memory_gb_of(self, keys: int) -> float:
        """Memory of one task of so many keys."""
        return self.memory_gb + self.memory_more_gb * max(keys - self.per_task, 0)


@dataclass(frozen=True)
class Own:
    """What a stage's options say of single keys, in a file apart: each entry counts for its own key alone.

    Attributes
    ----------
    option : name of the option that leads to the file; where it leads is in no hash.
    read : options -> key -> what is said of it, as plain JSON, and the files that this names. Raises `LenspipeError`
        where the file is not as it should be; called before anything runs.
    apart : options -> keys of which such is said that others should not wait for them: each is a task of its own, after
        the others. None: there are no such keys.
    """

    option: str
    read: Callable[[Any], Mapping[str, tuple[Any, tuple[Path, ...]]]]
    apart: Callable[[Any], Collection[str]] | None = None


@dataclass(frozen=True)
class Stage:
    """One step of a workflow.

    Attributes
    ----------
    name : also the command ``lenspipe NAME``.
    inputs, outputs : products; edges of the DAG follow from them.
    optional : inputs that may have no maker in the workflow (their name is then absent from ``inputs``).
    outside : options -> the files and folders apart from products that ``run`` reads; a unit runs again when the
        content of one has changed. What is not there may be among them: that is for ``run`` to say.
    own : where options may say something of single keys; a unit runs again when what is said of it has changed.
    config : pydantic model of the options.
    run : a plain function on paths.
    without_gpu : options -> True where they leave no use for a GPU that the stage would else take.
    talk : how its ranks talk where a launcher starts several processes for it (`lenspipe.ranks`); empty: one process.
    over : the index product (an ECSV with a column ``key``, and, if it has one, ``selected``) whose rows
        become units; None for a stage that runs once.
    headline : of a stage that runs once, the names of the figures it returns that stand for the whole run.
    version : raise it when the same inputs give another output.
    summary : one line for ``--help``.
    """

    name: str
    inputs: tuple[Product, ...]
    outputs: tuple[Product, ...]
    config: type[BaseModel]
    run: Run
    over: Product | None = None
    optional: tuple[Product, ...] = ()
    outside: Callable[[Any], Iterable[Path]] | None = None
    own: Own | None = None
    resources: Resources = field(default_factory=Resources)
    without_gpu: Callable[[Any], bool] | None = None
    talk: Talk = ""
    headline: tuple[str, ...] = ()
    version: int = 1
    summary: str = ""

    def needs(self, config: Any) -> Resources:
        """What a task with these options needs."""
        if self.without_gpu and self.without_gpu(config):
            return replace(self.resources, gpus=0)
        return self.resources


@dataclass(frozen=True)
class Task:
    """All that crosses machines, as JSON. Paths are relative to the run folder.

    Attributes
    ----------
    stage, corridor : names.
    keys : the units of this task; ``("",)`` for a stage that runs once.
    config : the stage's effective options.
    inputs, outputs : product name -> path, or -> {key: path}; an output family made by a stage that runs once is
        given by its template, ``shards/{key}.h5``.
    seed : of the stage instance; `seed_for` derives each key's own.
    cpus : cores, of each rank where there are several.
    ranks : processes that do it together.
    attempt : 1, or more where a process died over these keys before.
    """

    stage: str
    corridor: str
    keys: tuple[str, ...]
    config: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    seed: int
    cpus: int = 1
    ranks: int = 1
    minutes: float = 30.0
    attempt: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        return cls(**{**data, "keys": tuple(data["keys"])})


def seed_for(seed: int, *names: str) -> int:
    """A 63-bit seed that depends on `seed` and `names` alone: the same object has the same seed in any batch."""
    text = "\0".join((str(seed), *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def for_each(keys: Iterable[str], work: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """Call ``work(key)`` for each key; a `CandidateError` fails that key alone. Returns key -> reason and detail."""
    from lenspipe.errors import CandidateError

    failed = {}
    for key in keys:
        try:
            work(key)
        except CandidateError as error:
            failed[key] = {"reason": str(error.reason), "detail": error.detail}
    return failed
