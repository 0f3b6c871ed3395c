"""Edges from products, and what is refused."""

from dataclasses import replace

import pytest

from lenspipe.errors import LenspipeError
from lenspipe.products import FIGURES, LABELS, SHARD, SHARDS, WEIGHTS
from lenspipe.run.graph import build
from lenspipe.run.workflow import Instance
from lenspipe.stage import Stage
from tests.run import toys
from tests.run.conftest import flow


def stage(name, inputs=(), outputs=(), **more):
    return Stage(name, inputs, outputs, toys.PolishConfig, toys.polish, **more)


def graph(*stages, **others):
    """All of `stages` in corridor ``search``, and corridor=stage."""
    found = [Instance("search", item, {}, 0) for item in stages]
    return build([*found, *(Instance(corridor, item, {}, 0) for corridor, item in others.items())])


def test_order_and_makers_follow_from_products(tmp_path):
    found = build(flow(tmp_path, {"gather": {}, "work": {}, "make": {}}, training={"teach": {}}).instances)
    assert [item.name for item in found.order if item.corridor == "search"] == [
        "search.make",
        "search.work",
        "search.gather",
    ]
    makers = {product: maker.name for product, maker in found.makers["search.work"].items()}
    assert makers == {"shard": "search.make", "shards": "search.make", "weights": "training.teach"}
    assert found.upstream("search.gather") == {"search.make", "search.work", "training.teach"}


def test_optional_input_without_a_maker_is_left_out(tmp_path):
    assert "weights" not in build(flow(tmp_path).instances).makers["search.work"]


def test_the_own_corridor_comes_first(tmp_path):
    found = build(flow(tmp_path, {"make": {}, "work": {}, "teach": {}}, training={"teach": {}}).instances)
    assert found.makers["search.work"]["weights"].name == "search.teach"


def test_refusals():
    reader = stage("reader", (LABELS,), (FIGURES,))
    writer = stage("writer", (FIGURES,), (LABELS,))
    one = stage("one", (), (LABELS,))
    user, net = stage("user", (WEIGHTS,), (FIGURES,)), stage("net", (), (WEIGHTS,))
    cases = [
        ((reader,), {}, "search.reader needs labels, which no stage of the workflow makes."),
        ((one, replace(one, name="two")), {}, "search.one and search.two both make labels."),
        ((reader,), {"a": one}, "search.reader needs labels, which no stage of the workflow makes."),
        ((user,), {"a": net, "b": net}, "search.user needs weights, which a.net and b.net make in other corridors."),
        ((stage("each", (SHARDS,), (LABELS,), over=SHARDS),), {}, "search.each runs once per key"),
    ]
    for stages, others, words in cases:
        with pytest.raises(LenspipeError) as caught:
            graph(*stages, **others)
        assert words in str(caught.value)
    with pytest.raises(LenspipeError) as caught:
        graph(reader, writer)
    assert "search.reader needs labels from search.writer" in str(caught.value)
    assert "search.writer needs figures from search.reader" in str(caught.value)


def test_missing_index_is_refused():
    with pytest.raises(LenspipeError, match="needs shards"):
        graph(stage("shard", (), (SHARD,)), stage("each", (SHARD,), (), over=SHARDS))
