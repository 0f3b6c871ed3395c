"""Which workers a stage goes to."""

import pytest

from lenspipe.errors import LenspipeError
from lenspipe.run.capacity import Capacity, Pool, machine
from lenspipe.stage import Resources

CPU = Pool("cpu", 256)
WIDE = Pool("wide", 4, cores_per_slot=16)
GPU = Pool("gpu", 8, cores_per_slot=4, gpus=4)


@pytest.mark.parametrize(
    ("needed", "pools", "label"),
    [
        (Resources(cpus=1), (WIDE, CPU, GPU), "cpu"),
        (Resources(cpus=8), (WIDE, CPU, GPU), "wide"),
        (Resources(cpus=99), (WIDE, CPU, GPU), "wide"),
        (Resources(gpus=1), (CPU, GPU), "gpu"),
        (Resources(gpus=1, cpus=16), (CPU, GPU, WIDE), "gpu"),
        (Resources(gpus=1), (CPU,), "cpu"),
        (Resources(cpus=1), (GPU,), "gpu"),
    ],
)
def test_a_stage_goes_where_it_fits(needed, pools, label):
    pool = Capacity(pools).place("train", needed)
    assert pool.label == label
    assert pool.cpus(needed) <= pool.cores


def test_no_gpu_is_said_or_refused():
    nowhere = Capacity((CPU,), site="here")
    assert nowhere.lacks_gpu(Resources(gpus=1))
    assert not nowhere.lacks_gpu(Resources())
    assert not Capacity((CPU, GPU)).lacks_gpu(Resources(gpus=1))
    with pytest.raises(LenspipeError, match="train needs a GPU, and no executor of site here"):
        nowhere.place("train", Resources(gpus=1, gpus_required=True))


def test_one_machine_shares_its_cores():
    pool = machine(8).place("train", Resources(cpus=3))
    assert (pool.cpus(Resources(cpus=3)), pool.takes(3)) == (3, 3)
    assert pool.cpus(Resources(cpus=99)) == 8
    # A worker of several cores is taken whole.
    assert WIDE.takes(3) == 1


@pytest.mark.parametrize(
    ("per_task", "pool", "due", "free", "keys"),
    [
        ({}, CPU, 1000, 8, 2),
        ({}, GPU, 1000, 8, 125),
        ({}, GPU, 1001, 8, 126),
        ({}, GPU, 1000, 1, 256),
        ({}, GPU, 1, 8, 2),
        ({"model": 7}, GPU, 1000, 8, 7),
        ({"other": 7}, CPU, 1000, 8, 2),
    ],
)
def test_a_gpu_takes_its_share_at_once(per_task, pool, due, free, keys):
    needed = Resources(gpus=1, per_task=2, per_gpu=256)
    capacity = Capacity((CPU, GPU), per_task)
    assert capacity.keys_of_task("model", needed, pool, due, free) == keys


def test_tasks_of_many_keys_may_take_longer_and_more_memory():
    needed = Resources(minutes=30, minutes_more=0.5, memory_gb=2, memory_more_gb=0.05, per_task=2)
    assert (needed.minutes_of(1), needed.minutes_of(2), needed.minutes_of(12)) == (30, 30, 35)
    assert needed.memory_gb_of(22) == pytest.approx(3)
