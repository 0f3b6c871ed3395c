"""Edges from products: who makes what each stage reads, refused where that is not one clear answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from lenspipe.errors import LenspipeError
from lenspipe.products import FAILURES, Product
from lenspipe.run.workflow import Instance
from lenspipe.stage import Stage


@dataclass(frozen=True)
class Graph:
    """The stages in an order in which each comes after what it needs, and the maker of each one's inputs.

    Attributes
    ----------
    makers : stage instance's name -> product name -> the instance that makes it. `FAILURES` (made by the driver)
        and optional inputs that nothing makes are absent.
    """

    order: tuple[Instance, ...]
    makers: dict[str, dict[str, Instance]]

    def upstream(self, name: str) -> set[str]:
        """Names of all that `name` depends on, however far."""
        found: set[str] = set()
        pending = [name]
        while pending:
            new = {maker.name for maker in self.makers[pending.pop()].values()} - found
            found |= new
            pending.extend(new)
        return found


def reads(stage: Stage) -> tuple[Product, ...]:
    """What `stage` finds among its inputs, the optional ones last."""
    return stage.inputs + tuple(product for product in stage.optional if product not in stage.inputs)


def needs(stage: Stage) -> tuple[Product, ...]:
    """What `stage` reads, and the index it runs over."""
    found = reads(stage)
    return found if stage.over is None or stage.over in found else (*found, stage.over)


def build(instances: Sequence[Instance]) -> Graph:
    """The graph of `instances`; `LenspipeError` names the stages and the product that stand in the way."""
    made: dict[str, dict[str, Instance]] = {}
    for instance in instances:
        for product in instance.stage.outputs:
            if instance.stage.over is not None and not product.keyed:
                raise LenspipeError(f"{instance.name} runs once per key, so it cannot make the one {product.name}.")
            rival = made.setdefault(product.name, {}).setdefault(instance.corridor, instance)
            if rival is not instance:
                raise LenspipeError(f"{rival.name} and {instance.name} both make {product.name}.")
    makers = {instance.name: _makers(instance, made) for instance in instances}
    sorter = TopologicalSorter({name: [maker.name for maker in found.values()] for name, found in makers.items()})
    try:
        names = list(sorter.static_order())
    except CycleError as error:
        raise LenspipeError(_cycle(error.args[1], makers)) from None
    by_name = {instance.name: instance for instance in instances}
    return Graph(tuple(by_name[name] for name in names), makers)


def _makers(instance: Instance, made: dict[str, dict[str, Instance]]) -> dict[str, Instance]:
    found = {}
    for product in needs(instance.stage):
        if product == FAILURES:
            continue
        makers = made.get(product.name, {})
        if instance.corridor in makers:
            found[product.name] = makers[instance.corridor]
        elif product.shared and len(makers) == 1:
            found[product.name] = next(iter(makers.values()))
        elif product.shared and makers:
            names = " and ".join(maker.name for maker in makers.values())
            raise LenspipeError(f"{instance.name} needs {product.name}, which {names} make in other corridors.")
        elif product not in instance.stage.optional:
            raise LenspipeError(f"{instance.name} needs {product.name}, which no stage of the workflow makes.")
    return found


def _cycle(names: list[str], makers: dict[str, dict[str, Instance]]) -> str:
    """``names`` runs from maker to reader and ends where it begins."""
    links = []
    for maker, reader in pairwise(names):
        product = next(p for p, m in makers[reader].items() if m.name == maker)
        links.append(f"{reader} needs {product} from {maker}")
    return f"these stages wait for one another: {', '.join(links)}."
