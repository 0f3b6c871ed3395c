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
