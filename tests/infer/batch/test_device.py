"""The steps as a GPU runs them, on PyTorch's device "meta", whose tensors have shapes and no numbers.

Nothing can be read back from there: what would make the host wait raises. What comes from the host in between is seen,
but for tensors made of Python's numbers: these only show on the CPU.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lenspipe.infer.batch.climb import climb
from lenspipe.infer.batch.problems import Problems
from lenspipe.infer.batch.random import Counted
from lenspipe.infer.batch.walk import walk
from lenspipe.lensing.scene import build
from tests.infer.batch.test_batch import member

AWAY = torch.device("meta")
SCENES = {
    "one source": build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"]),
    "sky": build(["NIE", "CONVERGENCE"], ["GAUSSIAN_ELLIPSE"], ["SERSIC"], sky=True),
    "bands": build(["SIS"], ["SERSIC_ELLIPSE"], ["SERSIC"], free=["source"], bands=("g", "r")),
    "EPL": build(["EPL"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"]),
}


class _Travels(TorchDispatchMode):
    """Keeps which operations have to do with two devices, and which make a tensor of numbers of the host's."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        results = [a for a in torch.utils._pytree.tree_leaves(found) if isinstance(a, torch.Tensor)]
        # A lone number of the host's is an argument of the kernel and does not travel.
        if len({t.device.type for t in tensors + results if t.ndim}) > 1 or "lift_fresh" in str(function):
            self.seen.append(str(function))
        return found


def away(scene, psf, kind, call, device=AWAY):
    """Call `call(problems, tensor, P)` with everything on the device; what travelled meanwhile."""
    members = [member(side, i, psf, kind, SCENES[scene]) for i, side in enumerate((31, 28))]
    parameters = len(SCENES[scene].names)
    with torch.no_grad():
        problems = Problems(*zip(*members), device, memory=1e8)

        def tensor(*shape, dtype=torch.float64):
            return torch.zeros(shape, dtype=dtype, device=device)

        with _Travels() as travels:
            call(problems, tensor, parameters)
    return travels.seen


def steps(problems, tensor, P):
    random = Counted(tensor(2, dtype=torch.int64))
    u, levels = walk(problems, tensor(2, 4, 8, P), tensor(2, 4, 8), tensor(2, P), tensor(2, P, P), random, 2)
    assert u.device.type == levels.device.type == tensor(0).device.type
    assert u.shape == (2, 2, 4, 8, P) and u.dtype == levels.dtype == torch.float64


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
@pytest.mark.parametrize("kind", ["poisson", "map", "templates"])
@pytest.mark.parametrize("scene", ["one source", "sky", "bands"])
def test_no_step_of_the_sampler_waits_for_the_host(scene, kind, psf):
    assert away(scene, psf, kind, steps) == []
    assert away(scene, psf, kind, steps, torch.device("cpu")) == []


def test_an_epl_asks_how_many_terms_it_takes():
    """The one exception: what `compilable` knows, too."""
    with pytest.raises(RuntimeError, match="meta"):
        away("EPL", "gaussian", "map", steps)


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
def test_a_climb_asks_only_how_many_starts_are_left(psf, monkeypatch):
    asked = []

    def three(chosen):
        asked.append(chosen.shape)
        return torch.zeros(len(chosen), 3, dtype=torch.int64, device=chosen.device)

    monkeypatch.setattr("lenspipe.infer.batch.climb._places", three)

    def climbs(problems, tensor, P):
        u, cost, evaluations = climb(problems, tensor(2, 5, P), 2, 0.02)
        assert u.device.type == cost.device.type == evaluations.device.type == "meta"

    assert away("one source", psf, "poisson", climbs) == []
    assert asked == 2 * [(2, 5), (2, 3), (2, 3), (2, 3)]


def test_refined_pixels_are_gathered_on_the_device():
    members = [member(31, i, "gaussian", "refined") for i in range(2)]
    with torch.no_grad():
        problems = Problems(*zip(*members), AWAY, memory=1e8)
        u = torch.zeros(2, 4, members[0][1].lower.size, dtype=torch.float64, device=AWAY)
        with _Travels() as travels:
            assert problems.log_posterior(u).device.type == "meta"
            assert problems.cost(u).device.type == "meta"
    assert travels.seen == []


def test_travels_are_seen():
    with _Travels() as travels:
        torch.zeros(3).to(AWAY)
        torch.zeros(3, device=AWAY)[torch.zeros(1, dtype=torch.int64)]
        torch.zeros(3)[[0, 1]]
        torch.zeros(3, device=AWAY) + torch.zeros(())
    assert len(travels.seen) == 3
