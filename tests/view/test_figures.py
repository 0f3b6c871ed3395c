"""Pictures: they are drawn, in reasonable size, for every shape a candidate may have, and show what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lenspipe.view import figures, sheet, style
from lenspipe.view.critical import critical_curves
from lenspipe.view.thumbnail import triptych
from tests.view import example


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def scene() -> dict[str, Any]:
    return example.scene()


def test_model_figure_shows_a_bad_model_in_the_residual(scene: dict[str, Any], tmp_path: Path) -> None:
    figures.model_figure(tmp_path / "right.tmp", title="a", unit="e-/s", **scene)
    figures.model_figure(tmp_path / "wrong.tmp", title="a", unit="e-/s", **{**scene, "model": 0 * scene["model"]})

    def red(path: Path) -> int:
        rgb = pixels(path)
        return int(((rgb[..., 0] - rgb[..., 2] > 60) & (rgb[..., 1] < 60)).sum())

    assert red(tmp_path / "wrong.tmp") > 2 * red(tmp_path / "right.tmp")


@pytest.mark.parametrize("bands", ["r", "gi", "gri", "VYJH"])
def test_any_number_of_bands_and_nothing_optional(bands: str, tmp_path: Path) -> None:
    scene = example.scene(bands)
    for name in ("magnification", "critical_curves", "caustics", "source_plane", "source_extent"):
        del scene[name]
    figures.model_figure(tmp_path / "model.png", title=bands, **scene)
    sheet.sheet_figure(tmp_path / "sheet.png", fit=example.fit(), **scene)
    assert pixels(tmp_path / "model.png").std() > 10
    assert pixels(tmp_path / "sheet.png").shape[1] > 1400


def test_a_band_that_is_masked_everywhere_is_drawn_hatched(scene: dict[str, Any], tmp_path: Path) -> None:
    valid = scene["valid"].copy()
    valid[1] = False
    image = scene["image"].copy()
    image[1] = np.nan
    masked = {**scene, "image": image, "valid": valid}
    figures.model_figure(tmp_path / "model.png", title="a", **masked)
    sheet.sheet_figure(tmp_path / "sheet.png", fit=example.fit(), **masked)
    triptych(tmp_path / "small.png", **{name: masked[name] for name in ("image", "model", "sigma", "valid")})
    assert pixels(tmp_path / "small.png").shape == (192, 576, 3)


def test_sheet_with_everything_differs_where_the_verdict_differs(scene: dict[str, Any], tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "masks": example.masks(scene),
        "masks_origin": "unet",
        "ra": 33.5,
        "dec": -8.2,
        "cd": np.diag([-7e-5, 7e-5]),
        "truth": dict(zip(example.NAMES, example.TRUTH)),
    }
    for status in ("good", "suspect"):
        sheet.sheet_figure(tmp_path / status, fit=example.fit(status), **more, **scene)
    good, suspect = pixels(tmp_path / "good"), pixels(tmp_path / "suspect")
    changed = np.abs(good - suspect).sum(-1) > 0
    height, width = changed.shape
    assert changed[: height // 8, 3 * width // 4 :].any()  # the badge
    assert changed[4 * height // 5 :, : width // 2].any()  # the reasons
    assert not changed[height // 8 : 2 * height // 3, : width // 2].any()  # the same pictures


def test_corner_shows_the_deflector_and_survives_a_fixed_parameter(tmp_path: Path) -> None:
    samples = example.draws(per_chain=500)[0].reshape(-1, len(example.NAMES))
    samples[:, 2] = 0.25
    truth = np.where(np.arange(len(example.NAMES)) == 1, np.nan, example.TRUTH)
    figures.corner_figure(tmp_path / "a.png", samples, example.NAMES, example.units(), example.TRUTH, truth)
    few = figures.LENS_MASS[:2]
    figures.corner_figure(tmp_path / "b.png", samples, example.NAMES, example.units(), show=few)
    assert pixels(tmp_path / "a.png").shape[0] > pixels(tmp_path / "b.png").shape[0] > 200


def test_draws_that_are_shown_come_from_all_walkers() -> None:
    picked = figures.some(40 * 6000, 4000)
    assert len(set(picked)) == 4000 and (np.diff(picked) > 0).all()
    assert np.bincount(picked % 40, minlength=40).min() > 60
    assert figures.some(10, 20).tolist() == list(range(10))


def test_trace_tells_a_stuck_chain_from_a_mixed_one(tmp_path: Path) -> None:
    samples, log_prob = example.draws(per_chain=400)
    ones = np.ones(len(example.NAMES))
    figures.trace_figure(tmp_path / "a", samples, example.NAMES, example.units(), log_prob, ones, 900 * ones)
    samples[2, :, 0] += 1
    figures.trace_figure(tmp_path / "b", samples, example.NAMES, example.units(), log_prob, ones, 900 * ones)
    changed = np.abs(pixels(tmp_path / "a") - pixels(tmp_path / "b")).sum(-1) > 0
    height, width = changed.shape
    assert changed[: height // 6, : width // 3].any()
    assert not changed[height // 3 :].any()


def test_critical_curve_of_a_singular_isothermal_sphere_is_its_einstein_ring() -> None:
    axis = (np.arange(101) - 50) * 0.05
    radius = np.hypot(*np.meshgrid(axis, axis))
    with np.errstate(divide="ignore"):
        magnification = 1 / (1 - 1.3 / radius)
    (ring,) = critical_curves(magnification, 0.05)
    assert np.hypot(*ring.T) == pytest.approx(1.3, abs=0.01)


def test_composite_keeps_colours_and_order() -> None:
    sigma, valid = np.ones((3, 20, 20)), np.ones((3, 20, 20), bool)
    image = np.zeros((3, 20, 20))
    image[0, 2:6, 2:6] = 50  # only in the bluest band
    image[2, 12:16, 12:16] = 50  # only in the reddest
    rgb = style.Composite.of(image, sigma, valid)(image)
    assert rgb[3, 3, 2] > 0.5 and rgb[3, 3, 0] < 0.01
    assert rgb[13, 13, 0] > 0.5 and rgb[13, 13, 2] < 0.01
    assert rgb.min() >= 0 and rgb.max() <= 1


def test_bright_cores_keep_their_colour_and_shape() -> None:
    ramp = np.geomspace(5, 500, 40)
    image = np.zeros((3, 40, 40))
    image[:, 20] = ramp * np.array([[0.2], [0.6], [1.0]])
    rgb = style.Composite.of(image, np.ones_like(image), np.ones(image.shape, bool))(image)[20]
    assert (np.diff(rgb[:36, 0]) > 0).all()  # up to the share that is full
    assert rgb[:, 2] / rgb[:, 0] == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize(
    ("bands", "planes"),
    [
        ("ugrizy", [1, 2, 3]),
        ("griz", [0, 1, 2]),
        ("ugr", [0, 1, 2]),
        (("VIS", "Y", "J", "H"), [0, 1, 2]),
        (["F814W"], [0]),
    ],
)
def test_bands_of_a_picture(bands: tuple[str, ...], planes: list[int]) -> None:
    assert style.coloured(bands) == planes


def test_compass_follows_the_cd_matrix() -> None:
    figure = style.new_figure(3, 3)
    axes = figure.add_axes((0, 0, 1, 1))
    style.compass(axes, (-1, 1, -1, 1), np.array([[-1e-4, 0], [0, 1e-4]]))
    north, east = (np.diff(line.get_xydata(), axis=0)[0] for line in axes.lines)
    assert north[1] > 0 and abs(north[0]) < 1e-9
    assert east[0] < 0 and abs(east[1]) < 1e-9


@pytest.mark.parametrize(
    ("name", "text"),
    [("theta_E", r"$\theta_\mathrm{E}$"), ("source_center_x", "$x$ source"), ("lens_light_e1", "$e_1$ lens light")],
)
def test_symbols(name: str, text: str) -> None:
    assert style.symbol(name) == text


def test_fluxes_of_any_size_have_ticks_within_the_colour_bar() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-12, 1.0, 1e6):
        image = scale * (rng.normal(size=(40, 40)) + 1)
        image[20, 20:24] = 400 * scale
        norm = style.asinh_norm(image, np.full_like(image, scale), np.ones_like(image, bool))
        ticks = style.asinh_ticks(norm)
        assert len(ticks) >= 2 and ticks[0] == 0
        assert all(norm.vmin <= t <= norm.vmax for t in ticks)
