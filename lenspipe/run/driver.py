"""The driver of a run: hands out what is ready, keeps the ledger, finds poison, and stops cleanly.

Units start when their own inputs are there, not when the stage before has ended. A batch whose process dies is
taken apart into single keys, so that the one that killed it is found and named while the others finish.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lenspipe.io.atomic import write_json
from lenspipe.products import FAILURES, Product
from lenspipe.run.capacity import Capacity
from lenspipe.run.execute import label, sweep
from lenspipe.run.fingerprint import Fingerprints, options_hash, shared_options
from lenspipe.run.folder import CANCEL, join
from lenspipe.run.graph import Graph, reads
from lenspipe.run.ledger import Ledger
from lenspipe.run.node import Node, index_keys
from lenspipe.run.plan import Wanted, reason_to_run, strangers
from lenspipe.run.progress import Progress
from lenspipe.run.receipt import write_receipt
from lenspipe.run.results import write_figures
from lenspipe.run.workflow import Instance
from lenspipe.stage import Task

UNFINISHED = 75
"""Exit code of a run that was asked to end (SIGUSR1) before it was done; EX_TEMPFAIL of sysexits.h."""
TRIES = 2
"""Processes that may die over a key before it is quarantined."""


class Backend(Protocol):
    """Where tasks run."""

    def submit(self, task: Task, pool: str) -> Future[dict[str, Any]]:
        """What `lenspipe.run.execute.execute` returns, now or later; an exception only where the backend is broken.

        `pool` is the label of the workers that shall do it.
        """


OpenBackend = Callable[[], AbstractContextManager[Backend]]


@dataclass
class Driver:
    """One run, or in a dry run the look at what one would do.

    Attributes
    ----------
    held_back : names of stages whose units are not run but left for `hand_out`.
    grace_seconds : how long tasks under way may go on after SIGUSR1.
    """

    graph: Graph
    root: Path
    capacity: Capacity
    ledger: Ledger
    progress: Progress
    retry_failed: bool = False
    dry_run: bool = False
    held_back: frozenset[str] = frozenset()
    grace_seconds: float = 60.0

    def __post_init__(self) -> None:
        self.prints = Fingerprints()
        self.nodes = [self._node(item) for item in self.graph.order]
        by_name = {node.name: node for node in self.nodes}
        for node in self.nodes:
            node.makers = {product: by_name[i.name] for product, i in self.graph.makers[node.name].items()}
            for maker in {id(m): m for m in node.makers.values()}.values():
                maker.readers.append(node)
        self.pools = {n.name: self.capacity.place(n.stage.name, n.needed) for n in self.nodes}
        self.why: dict[str, dict[str, str]] = {node.name: {} for node in self.nodes}
        self.busy: dict[Future[dict[str, Any]], tuple[Node, Task]] = {}
        self.mistakes: list[str] = []
        self.stopped_by = 0
        self.ending = 0.0
        self._failures: dict[str, bool] = {}

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self, open_backend: OpenBackend) -> int:
        """Do all that is due; the backend is opened at the first task, not before. Returns the exit code."""
        began = time.monotonic()
        with self._signals(), ExitStack() as stack:
            backend: Backend | None = None
            self.survey()
            self._say_what_lacks_gpus()
            while not self.stopped_by:
                self.ledger.check()
                if (self.root / CANCEL).exists():
                    self.stopped_by = signal.SIGTERM
                    break
                while not self.ending and (found := self._next()) and not self.stopped_by:
                    if backend is None:
                        backend = stack.enter_context(open_backend())
                    node, task = found
                    self.ledger.start(task.corridor, task.stage, task.keys)
                    first = not node.ran and len(node.running) == len(task.keys)
                    self.progress.count(node.name, node.ran, node.total, "started" if first else "")
                    self.busy[backend.submit(task, self.pools[node.name].label)] = found
                if not self.busy or (self.ending and time.monotonic() > self.ending):
                    break
                ended, _ = wait(self.busy, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._finish(*self.busy.pop(future), future)
        if self.stopped_by:
            self.progress.say(f"stopped by {signal.Signals(self.stopped_by).name}; run it again to go on")
            return 128 + self.stopped_by
        if self.ending and any(not node.complete for node in self.nodes):
            self.progress.say("ended before all was done; run it again to go on")
            return UNFINISHED
        code = self.exit_code()
        if code in (0, 3) and any(node.ran for node in self.nodes) and all(node.complete for node in self.nodes):
            write_figures(self.root, self.graph.order, time.monotonic() - began)
        return code

    def _say_what_lacks_gpus(self) -> None:
        without = [n.name for n in self.nodes if not n.complete and self.capacity.lacks_gpu(n.needed)]
        if without:
            self.progress.say(f"site {self.capacity.site} has no GPUs: {', '.join(without)} will run on CPUs")

    def survey(self) -> None:
        """Look at every unit whose inputs are settled. In a dry run what is due counts as settled."""
        for node in self.nodes:
            self._visit(node)

    def exit_code(self) -> int:
        if self.mistakes:
            return 2
        if any(node.blocked or (node.once and "failed" in node.outcome.values()) for node in self.nodes):
            return 1
        return 3 if any(self.failures(node) for node in self.nodes) else 0

    def failures(self, node: Node) -> dict[str, dict[str, str]]:
        """key -> reason and detail, of units in quarantine and of what the stage itself gave up."""
        found: dict[str, dict[str, str]] = {}
        for key, outcome in node.outcome.items():
            if outcome != "failed" and not (node.once and outcome == "ok"):
                continue
            entry = self._entry(node, key)
            assert entry is not None
            if outcome == "failed":
                found[key] = {"reason": entry["reason"], "detail": entry["detail"]}
            else:
                found |= entry["failed"]
        return found

    # -- what others run ----------------------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def due(self, name: str) -> list[str]:
        """Keys of a stage that want to run and whose inputs are there, or in a dry run would be."""
        node = self.node(name)
        return [*node.due, *node.singles, *(key for key, outcome in node.outcome.items() if outcome == "due")]

    def hand_out(self, name: str, size: int) -> list[Task]:
        """Tasks of at most `size` keys with all that is `due` of a stage, for others to run; each key apart alone."""
        node, due = self.node(name), self.due(name)
        keys = [key for key in due if key not in node.apart]
        batches = [keys[at : at + size] for at in range(0, len(keys), size)]
        batches += [[key] for key in due if key in node.apart]
        return [self._task(node, tuple(batch), node.needed.cpus) for batch in batches]

    def receipts(self, name: str) -> list[dict[str, Any]]:
        """What the ledger keeps of a stage's units that have run, in this run or an earlier one."""
        found = self.node(name).instance
        return [
            e
            for (corridor, stage, _), e in self.ledger.entries.items()
            if (corridor, stage) == (found.corridor, found.stage.name)
        ]

    def _next(self) -> tuple[Node, Task] | None:
        """The first task in the stages' order that fits now; a wide one keeps its pool waiting, so it never starves."""
        full: set[str] = set()
        for node in self.nodes:
            pool, needed = self.pools[node.name], node.needed
            if pool.label in full or not (node.due or node.singles) or node.name in self.held_back:
                continue
            ranks = self.capacity.ranks.get(node.stage.name, 1)
            cpus = pool.cpus(needed) if ranks == 1 else pool.cpus_of_rank(needed, ranks)
            there = [(n, task) for n, task in self.busy.values() if self.pools[n.name] is pool]
            free, taken = pool.slots - sum(pool.takes(t.cpus, t.ranks) for _, t in there), pool.takes(cpus, ranks)
            count = 1
            if node.due:
                most = self.capacity.keys_of_task(node.stage.name, needed, pool, len(node.due), free // taken)
                count = min(most, len(node.due))
            memory = sum(n.needed.memory_gb_of(len(t.keys)) for n, t in there) + needed.memory_gb_of(count)
            if taken > free or (pool.memory_gb is not None and there and memory > pool.memory_gb):
                full.add(pool.label)
                continue
            source = node.due or node.singles
            keys = tuple(source.popleft() for _ in range(count))
            node.running.update(keys)
            return node, self._task(node, keys, cpus)
        return None

    def _finish(self, node: Node, task: Task, future: Future[dict[str, Any]]) -> None:
        self.ledger.check()
        node.running.difference_update(task.keys)
        error = future.exception()
        if error is not None:  # where it ran broke, not what ran: nobody is quarantined for that
            self._block(node, f"the backend failed: {type(error).__name__}: {error}")
            return
        result = future.result()
        for receipt in result["receipts"]:
            self._end(node, receipt)
        if mistake := result.get("mistake"):
            if mistake not in self.mistakes:  # other tasks of the stage under way find the same
                self.mistakes.append(mistake)
            self._block(node, mistake)
        elif "stopped" in result:  # it was asked to end, and goes on where it was
            node.due.extendleft(reversed(task.keys))
        elif died := result.get("died"):
            sweep(task, node.stage, self.root)
            self._died(node, task, died["reason"], died["detail"])
        if node.complete:
            self._tell_readers(node)

    def _died(self, node: Node, task: Task, reason: str, detail: str) -> None:
        again = [key for key in task.keys if node.died.get(key, 0) + 1 < TRIES]
        more = f" {_names(again)} will be tried alone." if again else ""
        self.progress.say(f"{node.name} {_names(task.keys)}: {detail}{more}")
        for key in task.keys:
            node.died[key] = node.died.get(key, 0) + 1
            if node.died[key] < TRIES:
                node.singles.append(key)
                continue
            single = replace(self._task(node, (key,), task.cpus), attempt=task.attempt)
            receipt = write_receipt(
                self.root,
                single,
                key,
                stage=node.stage,
                own=node.own.get(key, ""),
                inputs=self._hashes(node, key),
                outside=self._outside(node),
                outputs={},
                began=time.time(),
                status="failed",
                reason=reason,
                detail=detail,
            )
            self._end(node, receipt)

    def _end(self, node: Node, receipt: dict[str, Any]) -> None:
        """A unit has its receipt."""
        self.ledger.done(receipt)
        for made in receipt["outputs"].values():
            self.prints.learn(self.root / made["path"], made)
        node.ran += 1
        key, seconds = receipt["key"], receipt["seconds"]
        note = f"{key} {receipt['status']} {seconds:.1f} s".strip()
        if receipt["status"] == "failed":
            self.progress.say(f"{node.name} {key}: {receipt['reason']}: {receipt['detail']}")
        self.progress.count(node.name, node.ran, node.total, note)
        self._settle(node, key, receipt["status"])

    # -- what is ready ------------------------------------------------------------------------------------------

    def _visit(self, node: Node) -> None:
        """Look at a stage whose makers have come further."""
        if node.blocked:
            return
        if broken := next((m for m in node.makers.values() if m.blocked or self._failed_once(m)), None):
            self._block(node, f"it needs {broken.name}, which did not end well")
            return
        if not node.expanded and not self._expand(node):
            return
        for key in list(node.waiting):
            self._consider(node, key)
        if node.complete:
            self._tell_readers(node)

    def _expand(self, node: Node) -> bool:
        """Find the keys of `node`, if its index is there."""
        keys = [""]
        if node.stage.over is not None:
            maker = node.makers[node.stage.over.name]
            if not maker.complete:
                return False
            if "due" in maker.outcome.values() or maker.blocked:
                return False
            keys = index_keys(self.root / self._path(node, node.stage.over))
        for sentence in strangers(node.own, keys, node.name):
            self.progress.say(sentence)
        if not self.dry_run:
            self.ledger.plan(node.instance.corridor, node.stage.name, keys)
        node.expanded = True
        node.waiting = dict.fromkeys(keys)
        return True

    def _consider(self, node: Node, key: str) -> None:
        """Put `key` among the due, or settle it, if all that it needs is settled."""
        for product in reads(node.stage):
            maker = node.makers.get(product.name)
            if maker is None:
                continue
            if product.keyed and not node.once and not maker.once:
                if key in maker.waiting or key in maker.due or key in maker.singles or key in maker.running:
                    return
                if maker.outcome.get(key) in ("failed", "skipped"):
                    del node.waiting[key]
                    self._settle(node, key, "skipped")
                    return
            elif not maker.complete:
                return
        del node.waiting[key]
        reason = self._reason(node, key)
        if reason:
            self.why[node.name][key] = reason
            node.total += 1
            if self.dry_run:
                self._settle(node, key, "due")
            else:
                (node.singles if key in node.apart else node.due).append(key)
            return
        entry = self._entry(node, key)
        assert entry is not None
        self._settle(node, key, entry["status"])

    def _reason(self, node: Node, key: str) -> str:
        """Why the unit must run; empty if it need not."""
        for product in reads(node.stage):
            maker = node.makers.get(product.name)
            if maker is not None and (maker.outcome.get(key if not maker.once and not node.once else "") == "due"):
                return f"input made anew: {label(product.name, key if product.keyed else '')}"
            if maker is not None and node.once and "due" in maker.outcome.values():
                return f"input made anew: {product.name}"
        entry = self._entry(node, key)
        if entry is not None:  # before anything of it is looked at: what has kept its size and time is not hashed again
            for made in entry["outputs"].values():
                self.prints.learn(self.root / made["path"], made)
            for path, record in entry["outside"].items():
                self.prints.learn(Path(path), record)
        wanted = Wanted(
            shared_options(node.stage, node.instance.config),
            node.config_hash,
            node.own.get(key, ""),
            node.instance.seed,
            node.stage.version,
            self._hashes(node, key),
            self._outside(node) if entry else {},
        )
        reason = reason_to_run(entry, wanted, self.root, self.prints)
        if not reason and entry is not None and entry["status"] == "failed" and (node.once or self.retry_failed):
            return f"failed before: {entry['reason']}"
        return reason

    def _settle(self, node: Node, key: str, outcome: str) -> None:
        """A unit has come to its end in this run; units that waited for it alone may now start."""
        node.outcome[key] = outcome
        for reader in node.readers:
            if key in reader.waiting and not node.once:
                self._consider(reader, key)

    def _tell_readers(self, node: Node) -> None:
        for reader in node.readers:
            self._visit(reader)

    def _failed_once(self, node: Node) -> bool:
        return node.once and node.outcome.get("") in ("failed", "skipped")

    def _block(self, node: Node, why: str) -> None:
        """Nothing more of `node` can run, nor of what depends on it."""
        if node.blocked:
            return
        node.blocked = why
        node.due.clear()
        node.singles.clear()
        node.waiting.clear()
        self.progress.say(f"{node.name} does not run: {why}")
        self._tell_readers(node)

    # -- paths and hashes ---------------------------------------------------------------------------------------

    def _entry(self, node: Node, key: str) -> dict[str, Any] | None:
        return self.ledger.entries.get((node.instance.corridor, node.stage.name, key))

    def _path(self, node: Node, product: Product, key: str = "") -> str:
        """Where `node` finds an input."""
        maker = node.makers.get(product.name, node)
        return join(maker.instance.corridor, product.at(key))

    def _members(self, maker: Node, product: Product) -> list[str]:
        """Keys of a family that exist by the ledger, not by what lies about in the folder."""
        if not maker.once:
            return sorted(key for key, outcome in maker.outcome.items() if outcome == "ok")
        entry = self._entry(maker, "")
        prefix = f"{product.name}/"
        return (
            sorted(name.removeprefix(prefix) for name in entry["outputs"] if name.startswith(prefix)) if entry else []
        )

    def _has(self, maker: Node, product: Product, key: str) -> bool:
        if not maker.once:
            return maker.outcome.get(key) == "ok"
        entry = self._entry(maker, "")
        return entry is not None and label(product.name, key) in entry["outputs"]

    def _inputs(self, node: Node, keys: tuple[str, ...]) -> dict[str, Any]:
        """The inputs of a task, as in `Task`."""
        found: dict[str, Any] = {}
        for product in reads(node.stage):
            maker = node.makers.get(product.name)
            if product == FAILURES:
                found[product.name] = self._write_failures(node)
            elif maker is None:
                continue
            elif not product.keyed:
                found[product.name] = self._path(node, product)
            elif node.once:
                members = self._members(maker, product)
                found[product.name] = {key: self._path(node, product, key) for key in members}
            else:
                certain = product not in node.stage.optional
                having = [key for key in keys if certain or self._has(maker, product, key)]
                found[product.name] = {key: self._path(node, product, key) for key in having}
        return found

    def _hashes(self, node: Node, key: str) -> dict[str, str]:
        """label -> content hash of one unit's inputs as they are now; one that is missing hashes as nothing."""
        found = {}
        for name, where in self._inputs(node, (key,)).items():
            members = where if isinstance(where, dict) else {"": where}
            for member, path in members.items():
                found[label(name, member)] = self.prints.of(self.root / path) or ""
        return found

    def _node(self, item: Instance) -> Node:
        config = item.stage.config.model_validate(item.config)
        own, said = self.prints.own(item.stage, config), item.stage.own
        apart = frozenset(said.apart(config)) if said and said.apart else frozenset()
        options = options_hash(shared_options(item.stage, item.config))
        return Node(item, options, item.stage.needs(config), own=own, apart=apart)

    def _outside(self, node: Node) -> dict[str, dict[str, Any]]:
        """The files that the options of `node` name, looked at once a run."""
        if node.outside is None:
            config = node.stage.config.model_validate(node.instance.config)
            node.outside = self.prints.outside(node.stage, config)
        return node.outside

    def _task(self, node: Node, keys: tuple[str, ...], cpus: int) -> Task:
        instance = node.instance
        outputs: dict[str, Any] = {}
        for product in node.stage.outputs:
            if node.once:
                outputs[product.name] = join(instance.corridor, product.path)
            else:
                outputs[product.name] = {key: join(instance.corridor, product.at(key)) for key in keys}
        return Task(
            stage=node.stage.name,
            corridor=instance.corridor,
            keys=keys,
            config=instance.config,
            inputs=self._inputs(node, keys),
            outputs=outputs,
            seed=instance.seed,
            cpus=cpus,
            ranks=self.capacity.ranks.get(node.stage.name, 1),
            minutes=node.needed.minutes_of(len(keys)) * self.capacity.minutes_factor,
            attempt=1 + max(node.died.get(key, 0) for key in keys),
        )

    def _write_failures(self, node: Node) -> str:
        """Write the corridor's failures for the first stage that reads them; later ones read the same file."""
        corridor = node.instance.corridor
        where = join(corridor, FAILURES.path)
        if self._failures.setdefault(corridor, False) or self.dry_run:
            return where
        self._failures[corridor] = True
        upstream = self.graph.upstream(node.name)
        found = {}
        for other in self.nodes:
            if other.instance.corridor == corridor and other.name in upstream and (failed := self.failures(other)):
                found[other.stage.name] = failed
        path = self.root / where
        if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != found:
            write_json(path, found)
        return where

    # -- signals ------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the run between two steps, a second one at once; SIGUSR1 ends it after what runs."""

        def stop(number: int, _: object) -> None:
            if self.stopped_by:
                raise KeyboardInterrupt
            self.stopped_by = number
            self.progress.say("stopping; once more to stop at once")

        def end(*_: object) -> None:
            if not self.ending:
                self.ending = time.monotonic() + self.grace_seconds
                self.progress.say(f"ending: nothing new begins, what runs has {self.grace_seconds:g} s")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, end)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- words --------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """One line at the end of a run."""
        lost = sum(len(self.failures(node)) for node in self.nodes)
        ran = sum(node.ran for node in self.nodes)
        kept = sum(len(node.outcome) for node in self.nodes) - ran
        text = f"{_units(ran)} ran, {kept} as they were" if ran else f"nothing to do: {_units(kept)} as they were"
        return text + (f"; {lost} in quarantine (lenspipe status {self.root} names them)" if lost else "")

    def plan_lines(self) -> list[str]:
        """What a run would do, stage by stage, units with the same reason together."""
        lines = []
        for node in self.nodes:
            if node.blocked:
                lines.append(f"{node.name}: cannot run: {node.blocked}")
            elif not node.expanded:
                over = node.stage.over
                assert over is not None
                lines.append(f"{node.name}: one per row of {over.name}, not made yet")
            else:
                grouped: dict[str, list[str]] = {}
                for key, reason in self.why[node.name].items():
                    grouped.setdefault(reason, []).append(key)
                kept = Counter(node.outcome.values())
                lines += [f"{node.name}: {_names(keys)}: {reason}" for reason, keys in grouped.items()]
                if node.waiting:
                    lines.append(f"{node.name}: {_names(list(node.waiting))}: input made anew")
                if kept["ok"]:
                    lines.append(f"{node.name}: {_units(kept['ok'])} as they are")
                if kept["failed"]:
                    lines.append(f"{node.name}: {_units(kept['failed'])} in quarantine")
        return lines


def _units(number: int) -> str:
    return f"{number} unit{'s' if number != 1 else ''}"


def _names(keys: tuple[str, ...] | list[str], most: int = 10) -> str:
    if list(keys) == [""]:
        return "once"
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{_units(len(keys))} ({', '.join(keys[:most])}{more})"
