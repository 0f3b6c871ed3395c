"""Regions by hand hold the points they should, and say what is wrong with them."""

import numpy as np
import pytest

from lenspipe.errors import LenspipeError
from lenspipe.io.regions import parse_region, rasterise, read_regions

GRID = np.linspace(-3, 3, 241)


@pytest.mark.parametrize(
    ("text", "area", "inside", "outside"),
    [
        ("circle(1, 0.5, 1)", np.pi, (1.9, 0.5), (2.1, 0.5)),
        ("ellipse(0, 0, 2, 0.5, 90)", np.pi, (0, 1.9), (1.9, 0)),
        ("ellipse(0.5 0 2 1 30)", 2 * np.pi, (0.5 + 1.9 * np.cos(np.pi / 6), 0.95), (0.5, 1.5)),
        ("box(0, 0, 4, 1, 90)", 4, (0.4, 1.9), (1.9, 0.4)),
        ("polygon(0, 0, 2, 0, 2, 2, 1, 0.5, 0, 2)", 2.5, (1.9, 1), (1, 1)),
    ],
)
def test_shapes(text, area, inside, outside):
    region = parse_region(text, "here")
    covered = region.holds(GRID[None, :], GRID[:, None]).mean() * 36
    assert covered == pytest.approx(area, rel=0.03)
    assert region.holds(*inside) and not region.holds(*outside)


def test_excluded_regions_are_cut_out():
    ring = [parse_region(t, "") for t in ("circle(0,0,2)", "-circle(0,0,1)")]
    assert rasterise(ring, GRID[None], GRID[:, None]).mean() * 36 == pytest.approx(3 * np.pi, rel=0.03)
    assert rasterise(ring[1:], GRID[None], GRID[:, None]).mean() * 36 == pytest.approx(36 - np.pi, rel=0.03)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("circel(0,0,1)", "did you mean 'circle'"),
        ("circle(0,0)", "takes 3 numbers, here are 2"),
        ("ellipse(0,0,1,2,3,4,5)", "takes 5 numbers"),
        ("circle(0,0,-1)", "above 0"),
        ('circle(0,0,3")', "plain numbers"),
        ("polygon(0,0,1,1)", "three points"),
        ("a circle", "no region such as"),
    ],
)
def test_mistakes_are_named(text, says):
    with pytest.raises(LenspipeError, match=r"here: .*" + says):
        parse_region(text, "here")


def test_ds9_files(tmp_path):
    path = tmp_path / "a.reg"
    path.write_text(
        "# Region file format: DS9 version 4.1\nglobal color=green dashlist=8 3\nimage\n"
        "circle(3,4,1.5) # color=red text={a (b)}\nimage;-box(10.5,2,3,4,0); polygon(1,1,5,1,5,5)\n"
    )
    regions = read_regions(path)
    assert [(r.shape, r.excluded) for r in regions] == [("circle", False), ("box", True), ("polygon", False)]
    path.write_text("physical\ncircle(3,4,1)\n")
    with pytest.raises(LenspipeError, match=r"a\.reg, line 2: a region in physical; save it from DS9 in image"):
        read_regions(path)
    path.write_text("circle(3,4,1)\n")
    with pytest.raises(LenspipeError, match="no coordinates that it names"):
        read_regions(path)
    path.write_text("image\n")
    with pytest.raises(LenspipeError, match="no region"):
        read_regions(path)
