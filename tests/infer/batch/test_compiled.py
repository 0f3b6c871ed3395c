"""What is compiled computes what is not, in calls of few shapes."""

import numpy as np
import pytest
import torch

from lenspipe.infer.batch.broker import Broker
from lenspipe.infer.batch.compiled import Compiled, compilable, pieces
from lenspipe.infer.batch.problems import Problems
from lenspipe.infer.objective import Objective
from lenspipe.infer.together import program
from lenspipe.lensing.scene import build
from tests.infer.batch.test_batch import CPU, member, near


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [
        (1, None, [1]),
        (64, None, [64]),
        (63, None, [64]),
        (45, None, [32, 16]),
        (80, None, [64, 16]),
        (33, None, [32, 1]),
        (80, 40, [32, 32, 16]),
        (3, 1, [1, 1, 1]),
        (2, 0, [1, 1]),
        (0, None, []),
    ],
)
def test_pieces(count, most, sizes):
    assert pieces(count, most) == sizes


def test_pieces_are_few_and_waste_little():
    found = [pieces(n) for n in range(1, 3000)]
    assert all(n <= sum(sizes) <= n + n // 8 for n, sizes in enumerate(found, 1))
    assert {size for sizes in found for size in sizes} <= {2**k for k in range(13)}


def problems(calls, side=16):
    members = [member(n, i, "gaussian", "map") for i, n in enumerate((side, side - 3))]
    likelihoods = [likelihood.to(torch.float32) for likelihood, _ in members]
    u = np.stack([near(priors, 3, i) for i, (_, priors) in enumerate(members)])
    return Problems(likelihoods, [priors for _, priors in members], CPU, 1e8, calls), torch.as_tensor(u)


def test_compiled_is_the_same(tmp_path, monkeypatch):
    """Takes some 15 s of a CPU: one program of 2 candidates and 4 vectors."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("lenspipe.infer.batch.compiled._SPARE", 2)  # three vectors go as four
    compiled = Compiled()
    with torch.no_grad():
        eager, u = problems(None)
        found = problems(compiled)[0].log_posterior(u)
    assert not compiled._failed
    np.testing.assert_allclose(found, eager.log_posterior(u), rtol=1e-5)
    assert list(tmp_path.rglob("*.so")), "nothing is kept on disk"


def test_without_a_compiler_it_goes_on(monkeypatch, caplog):
    def none(*_, **__):
        raise RuntimeError("no C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", none)
    found, u = problems(compiled := Compiled())
    with torch.no_grad():
        np.testing.assert_array_equal(found.log_posterior(u), problems(None)[0].log_posterior(u))
        found.log_posterior(u)
    assert compiled._failed
    assert caplog.text.count("torch.compile does not work here (RuntimeError: no C++ compiler)") == 1


def test_candidates_and_vectors_are_filled_up(monkeypatch):
    shapes = set()

    def as_it_is(function, **_):
        def call(stack, vectors, non_negative):
            assert vectors.shape[0] == len(stack.image)
            shapes.update(vectors.shape[:2])
            return function(stack, vectors, non_negative)

        return call

    monkeypatch.setattr(torch, "compile", as_it_is)
    members = [member(31, i, "gaussian", "map") for i in range(7)]
    points = [near(priors, 15, i) for i, (_, priors) in enumerate(members)]

    def job(one, u):
        return lambda: program.get().cost(Objective(*one), u)

    found = Broker(memory=1e9, compile=True).run([job(m, u) for m, u in zip(members, points)], at_once=7)
    # Seven go as four, two and one, or where an eighth is allowed for, as eight.
    assert shapes <= {1, 2, 4, 8, 16}
    for cost, one, u in zip(found, members, points):
        np.testing.assert_allclose(cost, Objective(*one).cost(u), rtol=1e-9)


def test_an_epl_is_not_compiled():
    assert compilable(build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"]))
    assert not compilable(build(["SIE", "SHEAR", "EPL"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"]))
