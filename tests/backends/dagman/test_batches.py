"""How many units go into a job."""

import pytest

from lenspipe.backends.dagman.batches import LEAST, MOST, MOST_BACK, per_job


@pytest.mark.parametrize("units", [1, 7, 40, 1000, 12345])
@pytest.mark.parametrize("seconds", [0.5, 9.0, 180.0, 3000.0])
@pytest.mark.parametrize("minutes", [1.0, 60.0, 1000.0])
def test_a_job_works_for_20_minutes_to_4_hours(units, seconds, minutes):
    size = per_job(units, seconds, minutes)
    assert 1 <= size <= units
    if size > 1:
        assert size * seconds <= MOST * 60
    work = size * seconds / 60
    # Less only where there is not more, or where sharing evenly makes the last of two no crumb.
    assert work + seconds / 60 > LEAST / 2 or size * 2 >= units or work + seconds / 60 >= min(minutes, MOST) / 2


def test_jobs_share_evenly():
    assert per_job(101, 60, 100) == 51


@pytest.mark.parametrize("minutes", [60, 240])
def test_a_job_brings_back_no_more_than_the_ospool_asks_for(minutes):
    size = per_job(10_000, 8, minutes, back=5e6)
    assert size == 200
    assert size * 5e6 <= MOST_BACK
    assert per_job(10, 8, minutes, back=5e9) == 1


def test_a_unit_longer_than_a_job_goes_alone():
    assert per_job(5, 5 * 3600, 60) == 1
