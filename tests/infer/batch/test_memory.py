"""How many candidates a device takes: more memory more, larger images fewer, at least one."""

import pytest

from lenspipe.infer.batch.memory import MOST, at_once, budget, kept
from lenspipe.infer.config import FitConfig

CONFIG = FitConfig()


def count(gb, side=45, bands=3, config=CONFIG):
    return at_once(gb * 1e9, budget(gb * 1e9, None, "cuda"), (side, side), bands, config)


def test_a_large_gpu_is_full_with_small_images():
    assert count(40) == count(140) == MOST


@pytest.mark.parametrize("side", [45, 121, 201])
def test_memory_and_size_decide_on_small_ones(side):
    few = [count(gb, side) for gb in (0.1, 1, 4, 16)]
    assert few == sorted(few) and few[0] >= 1
    assert few[0] < few[-1]
    assert count(4, side) >= count(4, 2 * side)


def test_what_is_kept_fits_beside_the_temporaries():
    for gb in (2, 8, 24):
        free = gb * 1e9
        wanted = budget(free, None, "cuda")
        assert wanted <= free / 4
        number = at_once(free, wanted, (201, 201), 3, CONFIG)
        assert number == 1 or number * kept((201, 201), 3, CONFIG) + wanted <= free


def test_more_starts_take_more_and_a_budget_that_is_said_counts():
    many = FitConfig(search={"starts": 400})
    assert kept((121, 121), 3, many) > 5 * kept((121, 121), 3, CONFIG)
    assert budget(1e9, 3e9, "cuda") == 3e9
    assert budget(0, None, "cpu") < 1e8
