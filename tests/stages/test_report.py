"""The report of a small run: a good, a suspect and a lost candidate, an input that could not be read."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lenspipe import products
from lenspipe.errors import Reason
from lenspipe.io.atomic import write_json
from lenspipe.io.catalogue import write_ecsv
from lenspipe.io.model_fits import write_model_fits
from lenspipe.stages import collect, report
from lenspipe.types import Cutout
from lenspipe.view.sheet import sheet_figure
from lenspipe.view.text import parameters_text
from tests.view import example

EVIL = "<script>alert(1)</script>"


class Links(HTMLParser):
    """Every address in a page, and every picture's alternative text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.alts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name, value in attrs if name in ("href", "src") and value]
        if tag == "img":
            self.alts.append(given.get("alt"))


def model_folder(folder: Path, name: str, status: str) -> None:
    """The files of a modelled candidate that the report looks at or links to."""
    scene, fit = example.scene(), example.fit(status, name)
    folder.mkdir(parents=True)
    write_json(folder / "fit.json", fit)
    (folder / "parameters.txt").write_text(parameters_text(fit))
    b, nothing = len(scene["bands"]), np.full(len(scene["bands"]), np.nan)
    image, sigma = scene["image"].astype("f4"), scene["sigma"].astype("f4")
    psf = np.ones((b, 1, 1), "f4")
    cutout = Cutout(name, scene["bands"], image, sigma, scene["valid"], psf, nothing, 0.2, nothing, nothing, nothing)
    planes = {"DATA": image, "SIGMA": sigma, "MODEL": scene["model"], "MASK": scene["valid"]}
    write_model_fits(folder / "model.fits", cutout, planes, (0, 0))
    sheet_figure(folder / "sheet.png", fit=fit, **scene)


@pytest.fixture(scope="module")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corridor's folder with everything in it, the report included."""
    root = tmp_path_factory.mktemp("run") / "search"
    names = {"SIM0000001": "good", "SIM0000002": "suspect", "SIM0000003": ""}
    models = {name: root / products.MODEL.at(name) for name, status in names.items() if status}
    for name, folder in models.items():
        model_folder(folder, name, names[name])
    n = len(names)
    bad = {
        "id": "row-7",
        "file": EVIL,
        "row": 7,
        "status": "failed",
        "reason": "band_unusable",
        "detail": f"{EVIL}, row 7: r",
    }
    intake: dict[str, list[Any]] = {
        "id": [*names, bad["id"]],
        "file": ["sims.fits"] * n + [bad["file"]],
        "row": [*range(n), 7],
        "shard": ["000"] * n + [""],
        "status": ["ok"] * n + [bad["status"]],
        "reason": [""] * n + [bad["reason"]],
        "detail": [""] * n + [bad["detail"]],
        "notes": [""] * (n + 1),
        "ra": [np.nan] * (n + 1),
        "dec": [np.nan] * (n + 1),
    }
    write_ecsv(root / "intake.ecsv", intake)
    candidates = {
        "id": list(names),
        "key": list(names),
        "selected": [True] * n,
        "masks_origin": ["unet"] * n,
        "is_lens": [True] * n,
        "true_theta_E": [1.62, 1.62, 1.1],
    }
    write_ecsv(root / "candidates.ecsv", candidates, {"true_theta_E": "arcsec"})
    why = {"reason": str(Reason.TIME_LIMIT), "detail": "It did not end within 20 minutes."}
    write_json(root / "failures.json", {"model": {"SIM0000003": why}})
    inputs: dict[str, Any] = {name: root / f"{name}.ecsv" for name in ("intake", "candidates")}
    inputs |= {"failures": root / "failures.json", "model": models}
    made = {p.name: root / p.path for p in collect.STAGE.outputs}
    collect.STAGE.run(collect.STAGE.config(), inputs, made, 0)
    temporary = root / ".0123.tmp.report"
    config = report.STAGE.config(title=f"Lenses {EVIL}")
    report.STAGE.run(config, inputs | made, {"report": temporary}, 11)
    temporary.rename(root / products.REPORT.path)
    return root


@pytest.fixture(scope="module")
def page(corridor: Path) -> str:
    return (corridor / "report" / "index.html").read_text(encoding="utf-8")


def test_every_link_leads_to_a_file_of_the_run(corridor: Path, page: str) -> None:
    links = Links()
    links.feed(page)
    assert len(links.found) > 10
    for link in links.found:
        target = (corridor / "report" / link).resolve()
        assert target.is_file() and corridor in target.parents, link
    for name in ("SIM0000001", "SIM0000002"):
        for file in ("sheet.png", "fit.json", "model.fits", "parameters.txt"):
            assert f"../{products.MODEL.at(name)}/{file}" in links.found
    assert len(links.alts) == 2 and all(links.alts)


def test_nothing_from_outside_is_loaded_or_trusted(page: str) -> None:
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1
    assert not re.search(r"(https?:)?//[a-z]", page)


def test_page_says_what_happened_to_everybody(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", page)
    assert "It did not end within 20 minutes." in text
    assert "band_unusable" in text and "row-7" in text
    for number, what in ((4, "objects in"), (3, "usable"), (3, "selected"), (2, "modelled"), (1, "good")):
        assert re.search(rf"\b{number}\s+{what}\b", text), what
    assert Reason.LOW_MAGNIFICATION.sentence in text
    assert re.search(r"50%\s", text)  # half of the modelled are good


def test_pictures_are_small_and_show_the_lens(corridor: Path) -> None:
    path = corridor / "report" / "pictures" / "SIM0000001.png"
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        rgb = np.asarray(picture).astype(int)
    side = rgb.shape[0]
    assert rgb.shape == (side, 3 * side, 3)
    centre, corner = rgb[side // 2 - 5 : side // 2 + 5, side // 2 - 5 : side // 2 + 5], rgb[-20:, :20]
    assert centre.mean() > 3 * corner.mean()
    observed, model = rgb[:, :side], rgb[:, side : 2 * side]
    assert np.corrcoef(observed.ravel(), model.ravel())[0, 1] > 0.75


def test_an_empty_run_still_has_a_report(tmp_path: Path) -> None:
    empty: list[Any] = []
    names = {
        "intake": ("id", "file", "row", "shard", "status", "reason", "detail", "notes", "ra", "dec"),
        "candidates": ("id", "key", "selected", "masks_origin"),
    }
    inputs: dict[str, Any] = {name: tmp_path / f"{name}.ecsv" for name in names}
    for name, columns in names.items():
        write_ecsv(inputs[name], dict.fromkeys(columns, empty))
    write_json(tmp_path / "failures.json", {})
    inputs |= {"failures": tmp_path / "failures.json", "model": {}}
    made = {p.name: tmp_path / p.path for p in collect.STAGE.outputs}
    collect.STAGE.run(collect.STAGE.config(), inputs, made, 0)
    report.STAGE.run(report.STAGE.config(), inputs | made, {"report": tmp_path / "report"}, 0)
    assert "No candidate was selected." in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_sorts_and_filters_the_table(corridor: Path, page: str, tmp_path: Path) -> None:
    """Click the heading of the ids twice and untick "good", in a real browser; read what it shows then."""
    act = """<script>
      document.querySelectorAll("#table thead button")[0].click();
      document.querySelectorAll("#table thead button")[0].click();
      document.querySelector(".pick[value=good]").click();
    </script></body>"""
    place = corridor / "report" / "acted.html"
    place.write_text(page.replace("</body>", act), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run([*command, place.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    order = re.findall(r'<tr data-status="(\w+)"( hidden="")?>\s*<th scope="row" data-value="([^"]+)"', done.stdout)
    assert [name for _, _, name in order] == ["SIM0000003", "SIM0000002", "SIM0000001", "row-7"]
    assert [name for _, hidden, name in order if hidden] == ["SIM0000001"]
    assert '<output id="shown">3 of 4</output>' in done.stdout
