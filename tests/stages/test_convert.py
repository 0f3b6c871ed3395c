import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits as afits
from astropy.table import Table
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from lenspipe import cli
from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.io.catalogue import read_ecsv
from lenspipe.io.mend import gaussian
from lenspipe.io.shards import Shard
from lenspipe.stages import convert
from tests.stages.outputs import Family

SURVEY = {"bands": ["g", "r", "i"], "pixel_scale": 0.2637, "zero_point": 30}
data = pytest.mark.skipif("LENSPIPE_DATA" not in os.environ, reason="LENSPIPE_DATA is not set")


class Done:
    """What a conversion left."""

    def __init__(self, folder, config, inputs=None):
        outputs = {
            "shards": folder / "shards.ecsv",
            "intake": folder / "intake.ecsv",
            "index": folder / "index.parquet",
            "shard": Family(folder / "shards"),
        }
        parsed = parse(convert.ConvertConfig, config, "convert")
        self.result = convert.STAGE.run(parsed, inputs or {}, outputs, 0)
        self.index, self.intake = read_ecsv(outputs["shards"]), read_ecsv(outputs["intake"])
        self.cutouts, self.tables, self.labels = {}, {}, {}
        self.paths = dict(outputs["shard"])
        for path in self.paths.values():
            with Shard(path) as shard:
                for row, name in enumerate(shard.ids):
                    self.cutouts[name] = shard.cutout(row)
                    self.tables[name] = {key: column[row] for key, column in shard.table().items()}
                    self.labels[name] = None if shard.labels() is None else shard.labels()[row]
        self.failed = self.result["failed"]

    def reasons(self):
        return {key: why["reason"] for key, why in self.failed.items()}


def stack(n=6, bands=3, size=25):
    return np.random.default_rng(0).normal(size=(n, bands, size, size)).astype(">f4")


def catalogue(n=6, unit="arcsec", **columns):
    table = Table({"COADD_OBJECT_ID": np.arange(n, dtype=np.int64) + 916084062})
    table["RA"], table["DEC"] = np.arange(n) + 0.5, -np.arange(n) - 0.5
    for b, band in enumerate("GRI"):
        table[f"FWHM_WMEAN_{band}"] = np.full(n, 1.0 + 0.1 * b)
        table[f"FWHM_WMEAN_{band}"].unit = unit
    table["Z_LENS"] = np.linspace(0.2, 0.7, n)
    table["TILENAME"] = [f"DES{i:04d}" for i in range(n)]
    table["FLUX_RADIUS_G"] = np.ones(n)
    table["FLUX_RADIUS_G"].unit = "pix"
    for name, values in columns.items():
        table[name] = values
    return table


def write_table(path, images, table, extra=()):
    hdus = [afits.PrimaryHDU(), afits.ImageHDU(images, name="IMAGE"), *map(afits.ImageHDU, extra)]
    afits.HDUList([*hdus, afits.table_to_hdu(table)]).writeto(path)
    return str(path)


def write_folder(folder, image=None, noise=None, psf=None):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    parts = {
        "image": rng.normal(size=(31, 31)) if image is None else image,
        "noise": np.ones((31, 31)) if noise is None else noise,
        "psf": gaussian(3.0, 11) if psf is None else psf,
    }
    for name, values in parts.items():
        afits.PrimaryHDU(values).writeto(folder / f"{name}.fits.gz")


def test_candidates_of_the_reference_system(tmp_path):
    path = write_table(tmp_path / "c.fits", stack(), catalogue())
    done = Done(tmp_path, {"source": path, "survey": {**SURVEY, "exposure_time": 40}, "shard_size": 4})
    assert done.index["key"].tolist() == ["000000", "000001"] and done.index["n"].tolist() == [4, 2]
    made = done.cutouts["916084063"]
    assert np.array_equal(made.image, stack()[1]) and made.bands == ("g", "r", "i")
    assert (made.ra, made.dec) == (1.5, -1.5) and made.psf_fwhm == pytest.approx([1.0, 1.1, 1.2])
    assert made.sigma_measured and made.background_rms == pytest.approx([1, 1, 1], abs=0.25)
    assert (made.zero_point == 30).all() and (made.exposure_time == 40).all()
    columns = done.tables["916084063"]
    assert columns == {"Z_LENS": pytest.approx(0.3), "TILENAME": "DES0001", "FLUX_RADIUS_G": 1.0}
    with Shard(done.paths["000000"]) as shard:
        assert shard.units()["FLUX_RADIUS_G"] == "pix"
    assert done.result["figures"] == {"n": 6, "n_failed": 0, "n_shards": 2} and done.failed == {}


def test_fwhm_needs_a_unit(tmp_path):
    path = write_table(tmp_path / "c.fits", stack(), catalogue(unit=None))
    with pytest.raises(LenspipeError, match="fwhm_unit"):
        Done(tmp_path, {"source": path, "survey": SURVEY})
    done = Done(tmp_path, {"source": path, "survey": SURVEY, "fwhm_unit": "pixel"})
    made = done.cutouts["916084062"]
    assert made.psf_fwhm == pytest.approx(0.2637 * np.array([1.0, 1.1, 1.2]))
    assert any("taken as pixel" in note for note in made.notes)


def test_four_planes_three_bands(tmp_path):
    path = write_table(tmp_path / "c.fits", stack(bands=4), catalogue())
    done = Done(tmp_path, {"source": path, "survey": {**SURVEY, "bands": ["i", "g"]}})
    assert np.array_equal(done.cutouts["916084062"].image, stack(bands=4)[0][[2, 0]])


def test_labels_of_simulations(tmp_path):
    classes = np.random.default_rng(0).integers(0, 4, (6, 25, 25))
    layers = (classes[:, None] == np.arange(4)[:, None, None]).astype("f4")
    path = write_table(tmp_path / "s.fits", stack(), catalogue(), [stack(), stack(), layers])
    done = Done(tmp_path, {"source": path, "survey": SURVEY})
    assert np.array_equal(done.labels["916084064"], classes[2])


def test_own_simulations_with_labels(tmp_path):
    table = catalogue(
        is_lens=np.arange(6) % 2 == 0, true_theta_E=np.linspace(1, 2, 6), BACKGROUND_RMS_G=np.full(6, 2.0)
    )
    path = tmp_path / "simulations.fits"
    write_table(path, stack(), table, [stack(), stack()])
    with afits.open(path, mode="update") as hdus:
        hdus[1].header.update(PIXSCALE=0.3, BANDS="g,r,i", MAGZERO=29.0)
    label = np.random.default_rng(0).integers(0, 4, (6, 25, 25)).astype("u1")
    with h5py.File(tmp_path / "labels.h5", "w") as f:
        f["id"] = [str(916084062 + i) for i in reversed(range(6))]
        f["label"] = label[::-1]
    done = Done(tmp_path, {}, {"simulations": path, "labels": tmp_path / "labels.h5"})
    made = done.cutouts["916084067"]
    assert np.array_equal(done.labels["916084067"], label[5])
    assert made.pixel_scale == 0.3 and (made.zero_point == 29).all()
    assert made.background_rms[0] == 2.0 and made.background_rms[1] != 2.0
    assert done.tables["916084067"]["true_theta_E"] == 2.0 and not done.tables["916084067"]["is_lens"]


def test_bad_rows_fail_alone(tmp_path):
    images = stack(8)
    images[1, 0] = 3.0
    images[2, 1, :, :14] = np.nan
    table = catalogue(8)
    table["COADD_OBJECT_ID"] = ["a", "b", "c", "../x", "a", "x", "f", "../x"]
    table["FWHM_WMEAN_R"][6] = np.nan
    done = Done(tmp_path, {"source": write_table(tmp_path / "c.fits", images, table), "survey": SURVEY})
    assert sorted(done.cutouts) == ["a", "x"]
    assert np.array_equal(done.cutouts["a"].image, images[0])
    assert done.reasons() == {
        "b": "image_constant",
        "c": "band_unusable",
        "x+2": "id_invalid",
        "x+3": "id_invalid",
        "a+2": "id_duplicate",
        "f": "psf_missing",
    }
    assert all("c.fits, row" in why["detail"] for why in done.failed.values())
    rows = {row["id"]: row for row in done.intake}
    assert len(rows) == 8 and rows["a"]["status"] == "ok" and rows["a"]["shard"] == "000000"
    assert rows["x+2"]["row"] == 3 and rows["x+2"]["reason"] == "id_invalid" and "'../x'" in rows["x+2"]["detail"]


def test_bad_files_fail_alone(tmp_path):
    source = tmp_path / "in"
    good = gaussian(3.0, 11)
    image = np.random.default_rng(1).normal(size=(31, 31))
    write_folder(source / "good")
    write_folder(source / "near", psf=1.04 * good)
    write_folder(source / "far", psf=1.5 * good)
    write_folder(source / "large", psf=np.pad(good, 12))
    write_folder(source / "constant", image=np.ones((31, 31)))
    write_folder(source / "half", noise=np.where(np.arange(31) < 16, 1e8, 1.0) * np.ones((31, 31)))
    write_folder(source / "bands", image=np.stack([image, image]))
    write_folder(source / "bad name")
    write_folder(source / "cut")
    content = (source / "cut/image.fits.gz").read_bytes()
    (source / "cut/image.fits.gz").write_bytes(content[: len(content) // 2])
    (source / "empty").mkdir()
    write_table(source / "short.fits", stack(), catalogue(5))
    (source / "noise.txt").write_text("not looked at")
    done = Done(
        tmp_path,
        {"source": [str(source), str(tmp_path / "none.fits")], "survey": {"bands": ["r"], "pixel_scale": 0.05}},
    )
    assert sorted(done.cutouts) == ["good", "near"]
    assert any("renormalised" in note for note in done.cutouts["near"].notes)
    assert done.reasons() == {
        "far": "psf_not_normalised",
        "large": "psf_too_large",
        "constant": "image_constant",
        "half": "band_unusable",
        "bands": "shape_mismatch",
        "bad_name": "id_invalid",
        "cut": "file_truncated",
        "empty": "file_missing",
        "short": "table_length",
        "none": "file_missing",
    }
    assert all(str(tmp_path) in why["detail"] for why in done.failed.values())


def test_a_missing_band(tmp_path):
    write_folder(tmp_path / "in/one")
    write_folder(tmp_path / "in/two", image=np.random.default_rng(0).normal(size=(2, 31, 31)))
    done = Done(tmp_path, {"source": str(tmp_path / "in"), "survey": {"pixel_scale": 0.05, "bands": ["g", "r"]}})
    assert done.reasons() == {"one": "band_missing"} and list(done.cutouts) == ["two"]


def test_shapes_go_to_their_own_shards_and_psfs_share_a_grid(tmp_path):
    rng = np.random.default_rng(0)
    write_folder(tmp_path / "in/a", psf=gaussian(2.0, 9))
    write_folder(tmp_path / "in/b", image=rng.normal(size=(35, 35)), noise=np.ones((35, 35)))
    write_folder(tmp_path / "in/c", psf=gaussian(4.0, 17))
    done = Done(tmp_path, {"source": str(tmp_path / "in"), "survey": {"pixel_scale": 0.05}})
    assert sorted(done.index["n"]) == [1, 2]
    small, large = done.cutouts["a"].psf[0], done.cutouts["c"].psf[0]
    assert small.shape == large.shape and small.sum() == pytest.approx(1)
    assert np.unravel_index(small.argmax(), small.shape) == (small.shape[0] // 2,) * 2


def test_one_stack_a_band_with_a_wrong_header(tmp_path):
    images = stack(4, 2)
    source = {}
    for b, band in enumerate("gr"):
        hdu = afits.PrimaryHDU(images[:, b])
        hdu.header["BAND"] = "r"
        hdu.writeto(tmp_path / f"{band}.fits.gz")
        source[band] = str(tmp_path / f"{band}.fits.gz")
    survey = {"pixel_scale": 0.263, "psf_fwhm": {"g": 1.2, "r": 1.0}}
    done = Done(tmp_path, {"source": source, "survey": survey})
    made = done.cutouts["g-000002"]
    assert np.array_equal(made.image, images[2]) and made.psf_fwhm.tolist() == [1.2, 1.0]
    assert sum("header says band r; used as g" in note for note in made.notes) == 1


def test_nothing_usable_is_a_users_mistake(tmp_path):
    (tmp_path / "a.fits").write_text("x" * 5000)
    with pytest.raises(LenspipeError, match=r"a\.fits"):
        Done(tmp_path, {"source": str(tmp_path / "*.fits"), "survey": SURVEY})
    with pytest.raises(LenspipeError, match="simulations"):
        Done(tmp_path, {})


def test_a_named_layout_is_demanded(tmp_path):
    write_folder(tmp_path / "in/one")
    write_table(tmp_path / "in/c.fits", stack(), catalogue())
    source = {"source": str(tmp_path / "in"), "survey": {"pixel_scale": 0.2637}}
    assert list(Done(tmp_path / "f", {**source, "layout": "folders"}).cutouts) == ["one"]
    assert len(Done(tmp_path / "t", {**source, "layout": "table"}).cutouts) == 6


@data
def test_slacs_folders(tmp_path, monkeypatch):
    config = {
        "source": "$LENSPIPE_DATA/slacs",
        "survey": {"bands": ["F814W"], "pixel_scale": 0.05, "orientation": "north-up-east-left"},
    }
    done = Done(tmp_path, config)
    assert len(done.cutouts) == 12 and not done.failed
    for made in done.cutouts.values():
        assert made.image.shape == (1, 201, 201) and made.psf.shape == (1, 15, 15) and made.cd is not None
        assert 0.5 < made.valid.mean() < 1 and made.sigma.max() < 1


@data
def test_des_backgrounds(tmp_path):
    folder = Path(os.environ["LENSPIPE_DATA"]) / "des_backgrounds"
    source = {band: str(folder / f"{band}.fits.gz") for band in "griz"}
    done = Done(tmp_path, {"source": source, "survey": {"pixel_scale": 0.263, "psf_fwhm": 1.0, "zero_point": 30}})
    assert len(done.cutouts) == 46 and not done.failed
    rms = np.median([made.background_rms for made in done.cutouts.values()], axis=0)
    assert (np.diff(rms) > 0).all() and (rms > 1).all() and (rms < 30).all()


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_pictures_with_masks(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 50, (30, 40)).astype(np.uint8)
    image[:, :20] = 0  # black, and data
    mask = np.where(np.arange(40) > 30, 255, 0).astype(np.uint8) * np.ones((30, 1), np.uint8)
    for name in ("a", "b", "strange", "small", "lonely"):
        write_png(tmp_path / f"im/{name}.png", image)
        write_png(tmp_path / f"gt/{name}.png", mask)
    write_png(tmp_path / "im/colour.png", np.stack([image, image, image], axis=-1))
    write_png(tmp_path / "gt/colour.png", mask)
    write_png(tmp_path / "gt/strange.png", mask // 2)
    write_png(tmp_path / "gt/small.png", mask[:5])
    (tmp_path / "gt/lonely.png").unlink()
    content = (tmp_path / "im/b.png").read_bytes()
    (tmp_path / "im/b.png").write_bytes(content[: len(content) // 2])
    config = {
        "source": str(tmp_path / "im"),
        "layout": "pictures",
        "survey": {"bands": ["ct"], "pixel_scale": 1},
        "picture_mask": "../gt/{name}.png",
        "mask_classes": {0: "background", 255: "lens"},
    }
    done = Done(tmp_path, config)
    assert sorted(done.cutouts) == ["a", "colour"]
    assert np.array_equal(done.cutouts["colour"].image, image[None])
    assert done.cutouts["a"].valid.all() and done.cutouts["a"].psf.shape == (1, 1, 1)
    assert np.array_equal(done.labels["a"], np.where(mask == 255, 1, 3))
    assert done.reasons() == {
        "b": "file_truncated",
        "strange": "label_invalid",
        "small": "shape_mismatch",
        "lonely": "file_missing",
    }
    assert "127 stands for no class" in done.failed["strange"]["detail"]
    # Beside FITS files pictures are previews.
    write_folder(tmp_path / "im/one")
    survey = {"pixel_scale": 1}
    assert list(Done(tmp_path / "again", {"source": str(tmp_path / "im"), "survey": survey}).cutouts) == ["one"]


ARRAYS = {"pixel_scale": 0.05, "psf_fwhm": 0.1}


def objects(*items):
    made = np.empty(len(items), dtype=object)
    made[:] = items
    return made


def save(path, array):
    np.save(path, array, allow_pickle=True)
    return str(path)


@pytest.mark.parametrize(
    ("array", "bands", "names", "shape"),
    [
        (stack(3, 4), ["g", "r", "i"], ["d-000000", "d-000001", "d-000002"], (3, 25, 25)),
        (np.moveaxis(stack(2, 3), 1, -1), ["g", "r", "i"], ["d-000000", "d-000001"], (3, 25, 25)),
        (stack(2, 1)[:, 0], ["F814W"], ["d-000000", "d-000001"], (1, 25, 25)),
        (stack(1, 1)[0], ["F814W"], ["d"], (1, 25, 25)),
        (stack(1, 1)[0, 0], ["F814W"], ["d"], (1, 25, 25)),
        (stack(1, 3)[0], [], ["d"], (3, 25, 25)),
        (objects(stack(1, 1)[0, 0], 1e-23), ["F814W"], ["d"], (1, 25, 25)),
        (objects(*stack(2, 3)), ["g", "r", "i"], ["d-000000", "d-000001"], (3, 25, 25)),
        (objects(*({"image": image, "z": 0.5} for image in stack(2, 3))), [], ["d-000000", "d-000001"], (3, 25, 25)),
        ({"images": stack(2, 4), "redshift": np.ones(2)}, ["z"], ["d-000000", "d-000001"], (1, 25, 25)),
        (stack(2, 3).astype(object), [], ["d-000000", "d-000001"], (3, 25, 25)),
    ],
)
def test_arrays(tmp_path, array, bands, names, shape):
    source = save(tmp_path / "d.npy", array)
    config = {"source": source, "survey": {**ARRAYS, "bands": bands}, "trust_pickle": True}
    done = Done(tmp_path / "out", config)
    assert list(done.cutouts) == names and not done.failed
    # The first plane of the first object in all of them, but of the fourth band.
    first = stack(2, 4)[0, 3] if bands == ["z"] else stack(3, 4 if len(names) == 3 else 1)[0, 0]
    made = done.cutouts[names[0]]
    assert made.image.shape == shape and np.array_equal(made.image[0], first)
    if isinstance(array, dict) or array.dtype == object:
        with pytest.raises(LenspipeError, match=r"d\.npy: holds pickled objects.* --trust-pickle"):
            Done(tmp_path / "no", {**config, "trust_pickle": False})


def test_a_switch_trusts_pickles(tmp_path):
    source = save(tmp_path / "d.npy", objects(stack(1, 1)[0, 0], 1e-23))
    argv = ["convert", f"--out={tmp_path / 'out'}", f"--set=source={source}", "--set=survey.pixel_scale=1"]
    argv += ["--set=survey.psf_fwhm=3"]
    refused = CliRunner().invoke(cli.app, argv)
    assert isinstance(refused.exception, LenspipeError)
    assert CliRunner().invoke(cli.app, [*argv, "--trust-pickle"]).exit_code == 0
    assert read_ecsv(tmp_path / "out/intake.ecsv")["id"].tolist() == ["d"]


class Runs:
    """Its pickle calls a function when it is read."""

    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


def test_arrays_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "d"
    folder.mkdir()
    save(folder / "runs.npy", objects(stack(1, 1)[0, 0], Runs()))
    save(folder / "metadata.npy", {0: {"z": 0.5}, 1: {"z": 0.7}})
    save(folder / "two.npy", objects(stack(1)[0], stack(1)[0, :2]))
    save(folder / "text.npy", np.array(["a", "b"]))
    content = Path(save(folder / "good.npy", stack(1)[0])).read_bytes()
    (folder / "short.npy").write_bytes(content[:-100])
    (folder / "none.npy").write_bytes(b"")
    pickled = (folder / "two.npy").read_bytes()
    (folder / "cut.npy").write_bytes(pickled[:-100])
    config = {"source": str(folder), "layout": "arrays", "survey": ARRAYS, "trust_pickle": True}
    done = Done(tmp_path / "out", config)
    assert list(done.cutouts) == ["good"]
    assert done.reasons() == {
        "runs": "file_unreadable",
        "metadata": "layout_unknown",
        "two": "shape_mismatch",
        "text": "layout_unknown",
        "short": "file_truncated",
        "none": "file_unreadable",
        "cut": "file_unreadable",
    }
    assert "mkdir" in done.failed["runs"]["detail"] and not (tmp_path / "made_by_a_pickle").exists()


def test_the_index_says_where_each_object_is(tmp_path):
    images = stack(7)
    images[2] = 0
    source = write_table(tmp_path / "c.fits", images, catalogue(7))
    done = Done(tmp_path, {"source": source, "survey": SURVEY, "shard_size": 3})
    index = parquet.read_table(tmp_path / "index.parquet").to_pydict()
    assert done.index["n"].tolist() == [2, 3, 1]
    for name, key, row in zip(index["id"], index["shard"], index["row"]):
        with Shard(done.paths[key]) as shard:
            assert shard.ids[row] == name
    assert len(index["id"]) == 6


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shards_are_the_same_bytes_for_any_number_of_ranks(tmp_path, ranks):
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'lenspipe[mpi]'")
    launcher = Path(sys.executable).with_name("mpirun")  # the environment need not be on the path
    images = stack(11)
    images[4, 0] = 3.0  # one that fails
    table = catalogue(11)
    table["COADD_OBJECT_ID"][9] = table["COADD_OBJECT_ID"][1]  # and one that is there already
    source = tmp_path / "in"
    source.mkdir()
    write_table(source / "b.fits", images, table)
    write_folder(source / "one", image=np.random.default_rng(3).normal(size=(3, 31, 31)))
    (source / "broken.fits").write_text("x" * 5000)
    write_table(source / "short.fits", stack(8), catalogue(7))
    config = {"source": str(source), "survey": {**SURVEY, "psf_fwhm": 1.0}, "shard_size": 3}
    alone = Done(tmp_path / "alone", config)
    assert set(alone.reasons().values()) == {"image_constant", "id_duplicate", "file_unreadable", "table_length"}
    out = tmp_path / "out"
    sets = [word for key, value in config.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    argv = [str(launcher), "-n", str(ranks), sys.executable, "-m", "lenspipe", "convert", "--out", str(out), *sets]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    for key, path in alone.paths.items():
        assert (out / f"shards/{key}.h5").read_bytes() == path.read_bytes()
    assert len(list((out / "shards").iterdir())) == len(alone.paths)
    for name in ("intake.ecsv", "shards.ecsv", "index.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
