import numpy as np
import pytest

from lenspipe.config import parse
from lenspipe.infer.noise import sigma_map
from lenspipe.io import shards
from lenspipe.io.catalogue import read_ecsv, write_ecsv
from lenspipe.io.masks import write_masks
from lenspipe.io.mend import Raw, cutout, gaussian
from lenspipe.stages import select
from lenspipe.types import Masks
from tests.stages.outputs import Family

SCALE, SIZE = 0.2, 61
Y, X = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * SCALE


def probabilities(lens=(0.0, 0.0), arc=1.5, arc_probability=0.9, sector=1.0):
    """(C, H, W): a round lens galaxy at `lens` (x, y; arcsec) and part of a ring of radius `arc` about it."""
    r, angle = np.hypot(X - lens[0], Y - lens[1]), np.arctan2(Y, X)
    result = np.zeros((4, SIZE, SIZE), np.float32)
    ring = (np.abs(r - arc) < 0.2) & (np.abs(angle) < np.pi * sector)
    result[0][ring] = arc_probability
    result[1][(r < 0.8) & ~ring] = 0.9
    result[3] = 1 - result.sum(axis=0)
    return result


def judge(**change):
    config = parse(select.SelectConfig, change.pop("config", {}), "select")
    return select.judge(Masks(probabilities(**change), "net"), SCALE, config)


def test_a_lens_passes_with_its_figures():
    verdict = judge()
    assert verdict.why == ""
    assert verdict.distance == pytest.approx(1.5, abs=0.03)
    assert verdict.source_area == pytest.approx(2 * np.pi * 1.5 * 0.4 / SCALE**2, rel=0.1)
    assert verdict.source_probability == pytest.approx(0.9)
    assert verdict.lens_area == pytest.approx(np.pi * 0.8**2 / SCALE**2, rel=0.15)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lens": (4.0, 0.0)}, "no lens"),
        ({"arc": 30.0}, "no arc found"),
        ({"sector": 0.02}, "source pixels"),
        ({"arc_probability": 0.6}, "probability"),
        ({"arc": 4.0, "config": {"max_distance": 3.9}}, "arcsec"),
        ({"config": {"min_distance": 1.8}}, "arcsec"),
    ],
)
def test_each_part_of_the_rule_rejects(change, why):
    assert why in judge(**change).why


def test_source_pixels_far_from_the_lens_do_not_count():
    given = probabilities()
    given[0, :4, :20] = 0.95
    config = parse(select.SelectConfig, {"max_distance": 3.0}, "select")
    assert select.judge(Masks(given, "net"), SCALE, config) == judge(config={"max_distance": 3.0})


class Done:
    """Four objects through the stage: a lens, a lens missed, a non-lens, a non-lens let through."""

    def __init__(self, folder, config=None, noise=None, segmented=True, familiarity=None):
        rng = np.random.default_rng(0)
        names = ["916084062", "lost", "not", "through"]
        given = np.stack([probabilities(), probabilities(arc=30.0), probabilities(arc=30.0), probabilities()])
        light = 40 * np.exp(-((np.hypot(X, Y) - 1.5) ** 2) / 0.1) + 100 * np.exp(-np.hypot(X, Y) / 0.4)
        self.sky, cutouts = 3.0, []
        for name in names:
            image = (light + self.sky + rng.normal(0, 0.5, light.shape))[None]
            raw = Raw(
                name, "x", ("r",), image, SCALE, noise=noise, psf=[gaussian(3.0, 9)], exposure_time=np.array(50.0)
            )
            cutouts.append(cutout(raw, sigma_map))
        table = {"is_lens": np.array([True, True, False, False]), "true_theta_E": np.array([1.5, 1.2, np.nan, np.nan])}
        extra = shards.Extra(table={**table, "Z_LENS": np.arange(4) / 10}, units={"true_theta_E": "arcsec"})
        shards.write(folder / "s.h5", cutouts, extra)
        write_masks(folder / "m.h5", names[::-1], given[::-1], "net-1", familiarity)
        write_ecsv(folder / "shards.ecsv", {"key": ["000000"], "n": [4]})
        outputs = {"candidates": folder / "c.ecsv", "bundle": Family(folder / "bundles")}
        inputs = {
            "shards": folder / "shards.ecsv",
            "shard": {"000000": folder / "s.h5"},
            "masks": {"000000": folder / "m.h5"} if segmented else {},
        }
        parsed = parse(select.SelectConfig, config or {}, "select")
        self.figures = select.STAGE.run(parsed, inputs, outputs, 0)["figures"]
        self.rows = {row["key"]: row for row in read_ecsv(outputs["candidates"])}
        self.table = read_ecsv(outputs["candidates"])
        self.bundles = {key: shards.read_bundle(path) for key, path in outputs["bundle"].items()}


def test_candidates_figures_and_bundles(tmp_path):
    done = Done(tmp_path)
    assert done.figures == {
        "n": 4, "n_selected": 2, "lenses": 2, "lenses_lost": 1, "nonlenses": 2, "nonlenses_through": 1,
    }  # fmt: skip
    assert {key for key, row in done.rows.items() if row["selected"]} == {"916084062", "through"} == set(done.bundles)
    assert "no arc found" in done.rows["lost"]["why"] and done.rows["through"]["why"] == ""
    row = done.rows["916084062"]
    assert (row["shard"], row["row"], row["masks_origin"], row["true_theta_E"]) == ("000000", 0, "net-1", 1.5)
    assert done.table["true_theta_E"].unit == "arcsec" and done.table["distance_arcsec"].unit == "arcsec"
    _, masks, _, columns = done.bundles["916084062"]
    assert masks.origin == "net-1" and masks.probability == pytest.approx(probabilities(), abs=1e-3)
    assert columns["Z_LENS"] == 0.0 and columns["is_lens"]


def test_what_is_unlike_the_training_images_is_left_out_on_request(tmp_path):
    familiarity = [0.002, 0.5, 0.5, 0.4]  # in the order of the masks, the last object first
    for folder, config, selected in (
        ("a", {}, {"916084062", "through"}),
        ("b", {"min_familiarity": 0.01}, {"916084062"}),
    ):
        (tmp_path / folder).mkdir()
        done = Done(tmp_path / folder, config, familiarity=familiarity)
        assert {key for key, row in done.rows.items() if row["selected"]} == selected
        assert done.rows["through"]["familiarity"] == pytest.approx(0.002)
    assert "unlike the training images" in done.rows["through"]["why"]
    (tmp_path / "c").mkdir()
    assert len(Done(tmp_path / "c", {"min_familiarity": 0.01}).bundles) == 2  # unknown passes


def test_sigma_is_measured_again_from_background_pixels(tmp_path):
    found = Done(tmp_path).bundles["916084062"][0]
    assert found.background_rms[0] == pytest.approx(0.5, rel=0.1)
    assert found.sigma[0, 0, 0] == pytest.approx(0.5, rel=0.15)
    flux = found.image[0, 30, 30] - 3.0
    assert found.sigma[0, 30, 30] == pytest.approx(np.sqrt(0.25 + flux / 50), rel=0.02)
    assert found.image[0, :5].mean() == pytest.approx(3.0, abs=0.2) and found.sigma_measured
    assert any("left in" in note for note in found.notes)


def test_sky_is_subtracted_on_request(tmp_path):
    found = Done(tmp_path, {"subtract_sky": True}).bundles["916084062"][0]
    assert found.image[0, :5].mean() == pytest.approx(0.0, abs=0.2)
    assert any("subtracted" in note for note in found.notes)


def test_a_noise_map_is_kept(tmp_path):
    found = Done(tmp_path, {"subtract_sky": True}, noise=np.full((SIZE, SIZE), 0.7)).bundles["916084062"][0]
    assert (found.sigma == np.float32(0.7)).all() and found.image[0, :5].mean() == pytest.approx(3.0, abs=0.2)


def test_all_takes_everything_that_was_segmented(tmp_path):
    done = Done(tmp_path, {"all": True})
    assert len(done.bundles) == 4 and done.figures["lenses_lost"] == 0
    assert "no arc found" in done.rows["lost"]["why"]


def test_a_shard_without_masks_is_named(tmp_path):
    done = Done(tmp_path, {"all": True}, segmented=False)
    assert not done.bundles and {row["why"] for row in done.rows.values()} == {"was not segmented"}
