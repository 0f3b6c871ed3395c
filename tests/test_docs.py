"""What the documents say is true: their workflows load, their codes and files exist, their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lenspipe import products, stages
from lenspipe.config import parse
from lenspipe.errors import Reason
from lenspipe.products import Product
from lenspipe.run.graph import build
from lenspipe.run.workflow import load
from lenspipe.stage import Stage

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("text", blocks("docs/workflows.md", "yaml"))
def test_workflows_of_the_guide_are_accepted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text(text, encoding="utf-8")
    assert len(build(load(path, [], stages.get).instances).order) == 6


def test_the_workflow_with_estimates_is_accepted(tmp_path: Path) -> None:
    (text,) = blocks("docs/estimates.md", "yaml")
    (tmp_path / "workflow.yaml").write_text(text, encoding="utf-8")
    made = build(load(tmp_path / "workflow.yaml", [], stages.get).instances)
    assert made.makers["search.estimate"]["estimator"].name == "training.train_estimates"
    assert made.makers["search.select"]["estimates"].name == "search.estimate"


def test_sites_of_the_guide_are_accepted() -> None:
    from lenspipe.backends.site import Site

    sites = [parse(Site, yaml.safe_load(text), "docs") for text in blocks("docs/adding-a-site.md", "yaml")]
    assert [site.name for site in sites] == ["local", "laptop"]


def test_the_stage_of_the_guide_runs(tmp_path: Path) -> None:
    import json

    import numpy as np

    from lenspipe.io.masks import write_masks

    (source,) = blocks("docs/adding-a-stage.md", "python")
    names: dict[str, object] = {"__name__": "count"}
    exec(compile(source, "adding-a-stage.md", "exec"), names)
    stage = names["STAGE"]
    assert isinstance(stage, Stage)
    probability = np.zeros((2, 4, 5, 5), np.float32)
    probability[:, 3] = 1
    probability[1, :, 2, 1:4] = [[0.9], [0.1], [0], [0]]
    write_masks(tmp_path / "masks.h5", ["a", "b"], probability, "hand")
    counts = {"000": tmp_path / "counts.json"}
    assert stage.run(stage.config(), {"masks": {"000": tmp_path / "masks.h5"}}, {"counts": counts}, 0)["failed"] == {}
    assert json.loads(counts["000"].read_text(encoding="utf-8")) == [0, 3]


def test_every_reason_code_is_explained_in_its_own_words() -> None:
    text = (ROOT / "docs/outputs.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", text.partition("## Reason codes")[2], re.M))
    assert rows == {str(reason): reason.sentence for reason in Reason}


def test_every_product_is_in_the_plan_of_record() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for product in vars(products).values():
        if isinstance(product, Product):
            assert f"`{product.path}{'/' if product.directory else ''}`" in text, product.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link
