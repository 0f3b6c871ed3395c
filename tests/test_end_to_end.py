"""Whole runs as a user starts them: real Parsl, a network trained, lenses fitted, bad input, processes killed."""

import html
import json
import os
import signal
import subprocess
import sys
import uuid
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from PIL import Image

from lenspipe.errors import Reason
from lenspipe.io.catalogue import read_ecsv
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.products import MODEL
from tests.backends.processes import MARK, ended, events, marked, parent_of, until
from tests.infer import mock

WORKFLOWS = Path(__file__).parents[1] / "workflows"
FILES = {
    *("fit.json", "posterior.h5", "model.fits", "model.png", "corner.png", "trace.png", "sheet.png", "parameters.txt"),
}
QUICK = (
    *("model.sampler.burn=20", "model.sampler.min_steps=20", "model.sampler.max_steps=20"),
    *("model.search.starts=6", "model.search.finalists=3", "model.search.radii=8", "model.data.supersampling=1"),
)
"""Far too short for a result, long enough to go through everything."""
PATIENCE = 400
"""Seconds; other work may keep the machine busy."""


class Commands:
    """``lenspipe`` in a folder of its own; whatever is left of it in the end is ended."""

    def __init__(self, folder):
        self.folder, self.mark = folder, uuid.uuid4().hex
        (folder / "site.yaml").write_text("name: test\ncores: 2\n")
        # Threads that wait asleep, not spinning: other work may keep the machine busy.
        self.environment = {**os.environ, MARK: self.mark, "OMP_WAIT_POLICY": "passive"}

    def start(self, *argv):
        with (self.folder / "said.txt").open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "lenspipe", *map(str, argv)],
                cwd=self.folder,
                env=self.environment,
                stdout=said,
                stderr=said,
            )

    def run(self, workflow, *sets):
        sets = [word for text in (*QUICK, *sets) for word in ("--set", text)]
        return self.start("run", workflow, "--site", "site.yaml", "--out", "run", *sets)

    def __call__(self, *argv):
        """(exit code, all that was said)."""
        code = self.start(*argv).wait(PATIENCE)
        return code, self.said()

    def said(self):
        return (self.folder / "said.txt").read_text()

    @property
    def root(self):
        return self.folder / "run"

    def end(self):
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    made = []

    def make(name):
        made.append(Commands(tmp_path_factory.mktemp(name)))
        return made[-1]

    yield make
    for each in made:
        each.end()


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def candidate_folder(root, name):
    """The folder of a modelled candidate, after a look at its files."""
    folder = root / "search" / MODEL.at(name)
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20, path
    with fits.open(folder / "model.fits") as hdus:
        assert {"DATA", "SIGMA", "MODEL", "RESIDUAL", "MASK"} <= {hdu.name for hdu in hdus}
        assert all(hdu.data.shape[0] == 3 for hdu in hdus if hdu.name in ("DATA", "MODEL"))
    return folder


def catalogue(root):
    """Id -> row of ``lenses.ecsv``, which says the same as ``lenses.parquet`` and the report."""
    table = read_ecsv(root / "search/lenses.ecsv")
    parquet = pq.read_table(root / "search/lenses.parquet")
    assert parquet.column_names == table.colnames
    assert parquet["id"].to_pylist() == list(table["id"])
    assert parquet["status"].to_pylist() == list(table["status"])
    page = (root / "search/report/index.html").read_text()
    for row in table:
        assert f'data-value="{row["id"]}"' in page
        assert html.escape(row["detail"]).replace("&#x27;", "&#39;") in page
    return {row["id"]: row for row in table}


# -- from simulations to the report ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(commands):
    lenspipe = commands("demo")
    sets = (
        *("training.simulate.n_lenses=60", "training.simulate.n_nonlenses=60", "train.max_epochs=8"),
        *("search.simulate.n_lenses=3", "search.simulate.n_nonlenses=1", "select.all=true"),
    )
    lenspipe.sets = sets
    code = lenspipe.run(WORKFLOWS / "demo.yaml", *sets).wait(PATIENCE)
    assert code == 0, lenspipe.said()
    lenspipe.first_said = lenspipe.said()
    return lenspipe


def test_every_candidate_of_the_demo_has_folder_row_sheet_and_page(demo):
    rows = catalogue(demo.root)
    names = {f"SKY000000{i}" for i in range(4)}
    assert set(rows) == names
    for name in names:
        folder = candidate_folder(demo.root, name)
        found = json.loads((folder / "fit.json").read_text())
        assert found["id"] == name
        assert found["masks"] == rows[name]["masks_origin"] == "unet"
        assert found["status"] == rows[name]["status"]
        assert found["parameters"]["theta_E"]["median"] == pytest.approx(rows[name]["theta_E"])
    truth = [bool(rows[name]["is_lens"]) for name in sorted(names)]
    assert sum(truth) == 3
    page = demo.root / "search/report/index.html"
    links = [link for link in Links(page.read_text()).found if not link.startswith(("#", "data:"))]
    assert {f"../{MODEL.at(name)}/sheet.png" for name in names} <= set(links)
    for link in links:
        assert (page.parent / link).exists(), link


def test_the_demo_leaves_its_figures_on_top_and_says_where_things_are(demo):
    figures = json.loads((demo.root / "figures.json").read_text())
    own = json.loads((demo.root / "search/figures.json").read_text())
    card = json.loads((demo.root / "training/weights/card.json").read_text())
    assert figures["n"] == 3
    for name in ("n", "good", "theta_e_median_rel_error", "theta_e_coverage95"):
        assert figures[name] == own[name]
    assert figures["macro_iou"] == card["metrics"]["macro_iou"]
    assert figures["seconds"] > 0
    for words in ("macro_iou", "run/figures.json", "run/search/lenses.ecsv", "run/search/report/index.html"):
        assert words in demo.first_said


def test_a_second_run_of_the_demo_finds_nothing_to_do(demo):
    before = (demo.root / "figures.json").read_text()
    assert demo.run(WORKFLOWS / "demo.yaml", *demo.sets).wait(PATIENCE) == 0
    assert demo.said().startswith("nothing to do: 14 units as they were\n")
    assert (demo.root / "figures.json").read_text() == before
    code, said = demo("status", "run", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["holder"] is None
    assert found["quarantined"] == []
    assert found["stages"]["search.model"] == {"units": 4, "ok": 4, "failed": 0, "running": 0, "waiting": 0}


# -- bad input beside good, and processes killed in mid-fit ----------------------------------------------------------

GOOD = ("folder", "nearly", "row", "twice")
BAD = {
    "cut": Reason.FILE_TRUNCATED,
    "constant": Reason.IMAGE_CONSTANT,
    "blank_band": Reason.BAND_UNUSABLE,
    "two_bands": Reason.BAND_MISSING,
    "large_psf": Reason.PSF_TOO_LARGE,
    "heavy_psf": Reason.PSF_NOT_NORMALISED,
    "twice+2": Reason.ID_DUPLICATE,
    "x": Reason.ID_INVALID,
    "lengths": Reason.TABLE_LENGTH,
}


def write_folder(folder, seed, image=None, psf=None):
    """A candidate's own folder; its lens seen with its own noise, or another image."""
    cutout, _ = mock.lens(seed=seed)
    folder.mkdir(parents=True)
    # One PSF a band, of one size.
    size = max(gaussian_kernel(width, cutout.pixel_scale).shape[0] for width in cutout.psf_fwhm)
    kernels = np.zeros((3, size, size))
    for kernel, width in zip(kernels, cutout.psf_fwhm):
        small = gaussian_kernel(width, cutout.pixel_scale)
        edge = (size - len(small)) // 2
        kernel[edge : size - edge, edge : size - edge] = small
    fits.writeto(folder / "image.fits", cutout.image if image is None else image(cutout.image.copy()))
    fits.writeto(folder / "noise.fits", cutout.sigma)
    fits.writeto(folder / "psf.fits", kernels if psf is None else psf(kernels))


def write_table(path, ids, n):
    cutouts = [mock.lens(seed=30 + i)[0] for i in range(n)]
    table = Table({"id": ids, "RA": np.full(len(ids), 30.0), "DEC": np.full(len(ids), -40.0)})
    for b, band in enumerate("GRI"):
        table[f"FWHM_WMEAN_{band}"] = np.full(len(ids), cutouts[0].psf_fwhm[b])
        table[f"FWHM_WMEAN_{band}"].unit = "arcsec"
        table[f"EXPOSURE_TIME_{band}"] = np.full(len(ids), mock.GAIN)
    images = fits.ImageHDU(np.stack([cutout.image for cutout in cutouts]))
    fits.HDUList([fits.PrimaryHDU(), images, fits.table_to_hdu(table)]).writeto(path)


def blank(image):
    image[1, :30] = np.nan
    return image


def write_cutouts(folder):
    """Good candidates and each kind of bad one, as folders and tables in one folder."""
    write_folder(folder / "folder", 1)
    write_folder(folder / "nearly", 2, psf=lambda psf: 1.05 * psf)
    write_folder(folder / "cut", 3)
    whole = (folder / "cut/image.fits").read_bytes()
    (folder / "cut/image.fits").write_bytes(whole[:6000])
    write_folder(folder / "constant", 4, image=lambda image: np.full_like(image, 7))
    write_folder(folder / "blank_band", 5, image=blank)
    write_folder(folder / "two_bands", 6, image=lambda image: image[:2])
    write_folder(folder / "large_psf", 7, psf=lambda psf: np.pad(psf, ((0, 0), (20, 20), (20, 20))))
    write_folder(folder / "heavy_psf", 8, psf=lambda psf: 1.5 * psf)
    write_table(folder / "table.fits", ["row", "twice", "twice", "../x"], 4)
    write_table(folder / "lengths.fits", ["l1", "l2"], 3)


SETS = (
    "convert.survey={bands: [g, r, i], pixel_scale: 0.2637, zero_point: 30, orientation: north-up-east-left}",
    "model.figures=false",
)


class Fitting:
    """Fits under way in a run, seen by the log into which a process writes all it says."""

    def __init__(self, root):
        self.root = root

    def process(self, besides=()):
        """(candidate, process) in mid-fit, the process stopped; the caller ends it."""
        return until(lambda: self._stop_one(besides), PATIENCE)

    def _stop_one(self, besides):
        for log in sorted((self.root / ".lenspipe/logs/search/model").glob("*.log")):
            name = log.name.split(".")[0]
            if name in besides or f"{name}: fitting" not in log.read_text() or self.is_done(name):
                continue
            for link in Path("/proc").glob("[0-9]*/fd/1"):
                try:
                    if link.resolve() != log:
                        continue
                    pid = int(link.parts[2])
                    os.kill(pid, signal.SIGSTOP)
                except OSError:
                    continue
                if not self.is_done(name):
                    return name, pid
                os.kill(pid, signal.SIGCONT)
        return None

    def is_done(self, name):
        return any((self.root / ".lenspipe/receipts/search/model").rglob(f"{name}.json"))


@pytest.fixture(scope="module")
def search(commands):
    """A run over good and bad cutouts; one fit's process is killed, and another fit's worker."""
    lenspipe = commands("search")
    write_cutouts(lenspipe.folder / "cutouts")
    lenspipe.driver = lenspipe.run(WORKFLOWS / "search.yaml", *SETS)
    fitting = Fitting(lenspipe.root)
    lenspipe.killed = {}
    name, pid = fitting.process()
    os.kill(pid, signal.SIGKILL)
    lenspipe.killed[name] = pid
    lenspipe.lost_child = name
    name, pid = fitting.process(besides=lenspipe.killed)
    os.kill(parent_of(pid), signal.SIGKILL)
    lenspipe.killed[name] = pid
    lenspipe.lost_worker = name
    assert lenspipe.driver.wait(PATIENCE) == 3, lenspipe.said()
    return lenspipe


def test_bad_input_is_named_and_everyone_else_finishes(search):
    rows = catalogue(search.root)
    assert set(rows) == {*GOOD, *BAD}
    for name in GOOD:
        assert (search.root / "search" / MODEL.at(name) / "posterior.h5").exists()
        assert rows[name]["theta_E"] == pytest.approx(mock.TRUTH["theta_E"], rel=0.1), name
        assert rows[name]["masks_origin"] == "photutils"
    assert "1.05" in rows["nearly"]["notes"]
    code, said = search("status", "run")
    page = (search.root / "search/report/index.html").read_text()
    assert code == 0
    for name, reason in BAD.items():
        row = rows[name]
        assert (row["status"], row["reasons"]) == ("failed", reason), row["detail"]
        detail = row["detail"]
        assert "cutouts/" in detail
        assert detail.endswith(".")
        assert len(detail) < 200
        assert "\n" not in detail
        assert f"search.convert {name}: {reason}: " in said
        assert reason in page
    assert "row 3" in rows["x"]["detail"]
    assert not (search.folder / "x").exists()


def test_killed_in_mid_fit_runs_again_and_nothing_else_does(search):
    assert set(search.killed) <= set(GOOD)
    receipts, starts = ended(search.root), events(search.root, "start")
    assert {stage for stage, _ in receipts} == {"convert", "segment", "select", "model", "collect", "report"}
    assert {key for stage, key in receipts if stage == "model"} == set(GOOD)
    assert {len(found) for found in receipts.values()} == {1}
    # Where a worker is lost Parsl hands its task out again; the driver sees only that of a lost child.
    again = {unit for unit, found in starts.items() if len(found) > 1}
    assert again == {("model", search.lost_child)}
    fits_begun = {
        name: sum(
            log.read_text().count(f"{name}: fitting")
            for log in (search.root / ".lenspipe/logs/search/model").glob(f"{name}.*.log")
        )
        for name in GOOD
    }
    assert fits_begun == {name: 2 if name in search.killed else 1 for name in GOOD}
    for name, pid in search.killed.items():
        (path,) = (search.root / ".lenspipe/receipts/search/model").rglob(f"{name}.json")
        receipt = json.loads(path.read_text())
        assert receipt["status"] == "ok"
        assert receipt["pid"] != pid
        assert receipt["attempt"] == (2 if name == search.lost_child else 1)


def test_one_candidate_more_is_one_fit_more(search):
    write_folder(search.folder / "cutouts/late", 9)
    before = {unit: len(found) for unit, found in ended(search.root).items()}
    assert search.run(WORKFLOWS / "search.yaml", *SETS).wait(PATIENCE) == 3, search.said()
    more = {unit for unit, found in ended(search.root).items() if len(found) > before.get(unit, 0)}
    assert {key for stage, key in more if stage == "model"} == {"late"}
    assert set(catalogue(search.root)) == {*GOOD, *BAD, "late"}


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_a_misspelt_key_is_refused_before_anything_runs(commands):
    lenspipe = commands("mistake")
    text = (WORKFLOWS / "demo.yaml").read_text()
    (lenspipe.folder / "demo.yaml").write_text(text.replace("max_epochs", "max_epohcs"))
    code, said = lenspipe("run", "demo.yaml", "--out", "run")
    assert code == 2
    assert said == "demo.yaml: training.train.max_epohcs: unknown key; did you mean 'max_epochs'?\n"
    assert not lenspipe.root.exists()
