import json
import shlex
import shutil

import h5py
import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from lenspipe import cli
from lenspipe.config import parse
from lenspipe.errors import LenspipeError
from lenspipe.sim.survey import Survey
from lenspipe.stages import simulate


def run(folder, seed=4, **options):
    folder.mkdir(exist_ok=True)
    outputs = {"simulations": folder / "simulations.fits", "layers": folder / "layers.h5"}
    config = parse(simulate.SimulateConfig, {"supersampling": 1, **options}, "simulate")
    return simulate.run(config, {}, outputs, seed), outputs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run(tmp_path_factory.mktemp("simulate"), n_lenses=6, n_nonlenses=5)


def test_reference_layout_with_truth_and_units(made):
    result, outputs = made
    assert result["figures"]["n_lenses"] == 6
    with fits.open(outputs["simulations"]) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IMAGE", "SOURCE", "LENS", "CATALOGUE"]
        assert all(hdu.data.shape == (11, 3, 45, 45) for hdu in hdus[1:4])
        assert hdus[1].header["MAGZERO"] == 30.0
    table = Table.read(outputs["simulations"], hdu=4)
    assert table["COADD_OBJECT_ID"][10].strip() == "SIM0000010"
    assert table["is_lens"].sum() == 6
    assert np.isfinite(table["true_theta_E"].filled(np.nan)).tolist() == table["is_lens"].tolist()
    assert (table["true_magnification"][table["is_lens"]] >= 3).all()
    assert str(table["true_theta_E"].unit) == str(table["FWHM_WMEAN_G"].unit) == "arcsec"
    assert not [name for name in table.colnames if "RMS" in name]


def test_image_is_the_layers_and_noise(made):
    _, outputs = made
    image = fits.getdata(outputs["simulations"], 1)
    with h5py.File(outputs["layers"]) as f:
        model = sum(f[name][:] for name in ("source", "lens", "others"))
        variance = f["sky_rms"][:][..., None, None] ** 2 + model / f["exposure_time"][:][..., None, None]
        assert np.array_equal(f["source"][:], fits.getdata(outputs["simulations"], 2))
        assert f["truth/theta_E"].attrs["unit"] == "arcsec"
    assert ((image - model) / np.sqrt(variance)).std() == pytest.approx(1, abs=0.02)


def test_an_object_does_not_change_with_the_number_of_objects(made, tmp_path):
    _, outputs = run(tmp_path, n_lenses=3, n_nonlenses=0)
    more, fewer = (
        Table.read(o["simulations"], hdu=4)[["COADD_OBJECT_ID", "is_lens", "true_theta_E"]] for o in (made[1], outputs)
    )
    same = [i for i in range(3) if more["is_lens"][i]]
    assert same
    assert all(more["true_theta_E"][i] == fewer["true_theta_E"][i] for i in same)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"n_lenses": 0, "n_nonlenses": 0}, "both 0"),
        ({"prefix": "../x"}, "prefix"),
        ({"population": {"theta_e": [1, 2]}}, "did you mean 'theta_E'"),
        ({"population": {"lens_colours": {"offset": [0, 1], "scatter": [0, 0]}}}, "one number for each"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(LenspipeError, match=sentence):
        parse(simulate.SimulateConfig, options, "simulate")


def test_hdf5_holds_image_kind_config_and_units(made):
    _, outputs = made
    with h5py.File(outputs["layers"]) as f:
        assert np.array_equal(f["image"][:], fits.getdata(outputs["simulations"], 1))
        assert (f["kind"].asstr()[:] == "lens").sum() == 6
        assert json.loads(f.attrs["config"])["survey"]["name"] == "des"
        assert f["fwhm"].attrs["unit"] == "arcsec"


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(LenspipeError, match="MB are to be written"):
        run(tmp_path, n_lenses=1, n_nonlenses=1)
    assert not list(tmp_path.iterdir())


def backgrounds(folder, n=4, size=61):
    rng = np.random.default_rng(3)
    for band, rms in zip("gri", (5, 8, 12)):
        fits.writeto(folder / f"{band}.fits", (100 + rms * rng.normal(size=(n, size, size))).astype(np.float32))
    return {band: str(folder / f"{band}.fits") for band in "gri"}


def test_objects_on_real_skies(tmp_path):
    files = backgrounds(tmp_path)
    _, outputs = run(tmp_path / "out", n_lenses=2, n_nonlenses=2, backgrounds=files)
    with h5py.File(outputs["layers"]) as f:
        assert f["sky_rms"][:] == pytest.approx(np.tile([5, 8, 12], (4, 1)), rel=0.1)
        residual = f["image"][:] - sum(f[name][:] for name in ("source", "lens", "others"))
    assert np.abs(np.median(residual, axis=(2, 3))).max() < 3
    config = parse(simulate.SimulateConfig, {"backgrounds": files}, "simulate")
    assert {path.name for path in simulate.outside(config)} == {"g.fits", "r.fits", "i.fits"}


def test_pickled_skies_are_refused_and_taken_once_made_plain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    skies = np.empty(4, dtype=object)
    skies[:] = list((100 + 8 * rng.normal(size=(4, 3, 61, 61))).astype(np.float32))
    np.save("skies.npy", skies, allow_pickle=True)
    with pytest.raises(LenspipeError, match=r"skies\.npy: holds pickled objects") as refused:
        run(tmp_path / "no", n_lenses=1, n_nonlenses=0, backgrounds="skies.npy")
    # The way that the sentence names, word for word.
    command = str(refused.value).partition("with lenspipe ")[2].partition(" and name ")[0]
    assert CliRunner().invoke(cli.app, shlex.split(command)).exit_code == 0
    _, outputs = run(tmp_path / "out", n_lenses=1, n_nonlenses=1, backgrounds="plain/shards/*.h5")
    with h5py.File(outputs["layers"]) as f:
        assert f["sky_rms"][:] == pytest.approx(8, rel=0.1)
        assert f["fwhm"][0] == pytest.approx([band.psf_fwhm for band in Survey().bands])


def test_shards_of_another_survey_are_no_backgrounds(tmp_path):
    files = backgrounds(tmp_path)
    facts = {"bands": ["g", "r", "i"], "pixel_scale": 0.2637, "zero_point": 30, "psf_fwhm": 1.0}
    argv = ["convert", f"--out={tmp_path / 'plain'}", f"--set=source={files}", f"--set=survey={facts}"]
    assert CliRunner().invoke(cli.app, argv).exit_code == 0
    shards = str(tmp_path / "plain/shards/*.h5")
    for survey, sentence in {
        "pixel_scale: 0.2": "pixels of 0.2637 arcsec; the survey wants 0.2",
        "zero_point: 27": "zero point 30, the survey's is 27",
        "preset: des_wide": "bands g, r, i; the survey wants g, r, i, z",
    }.items():
        with pytest.raises(LenspipeError, match=sentence):
            run(tmp_path / "out", n_lenses=1, n_nonlenses=0, backgrounds=shards, survey=yaml.safe_load(f"{{{survey}}}"))
    _, outputs = run(tmp_path / "out", n_lenses=1, n_nonlenses=0, backgrounds=shards)
    with h5py.File(outputs["layers"]) as f:
        assert f["sky_rms"][:] == pytest.approx(np.array([[5, 8, 12]]), rel=0.1)
        assert f["fwhm"][:] == pytest.approx(1.0)


def test_backgrounds_below_the_size_of_cutouts_are_refused(tmp_path):
    with pytest.raises(LenspipeError, match=r"not one background can be used.*below the 45"):
        run(tmp_path / "out", n_lenses=1, n_nonlenses=0, backgrounds=backgrounds(tmp_path, size=31))
