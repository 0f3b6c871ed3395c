import pytest
import torch

from lenspipe.nets.calibration import fit_temperature
from lenspipe.nets.metrics import CalibrationError


def drawn(temperature, n=40):
    """Labels drawn from probabilities, and these as a network would say them that is too sure by `temperature`."""
    torch.manual_seed(0)
    logits = 1.5 * torch.randn(n, 4, 16, 16)
    p = logits.softmax(1)
    label = torch.multinomial(p.movedim(1, -1).reshape(-1, 4), 1).reshape(n, 16, 16)
    return (logits * temperature).softmax(1), label


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_the_temperature_that_undoes_overconfidence(temperature):
    said, label = drawn(temperature)
    found = fit_temperature([(said[:20], label[:20]), (said[20:], label[20:])])
    assert found == pytest.approx(temperature, rel=0.04)


def test_the_error_falls_on_other_objects():
    said, label = drawn(2.5)
    found = fit_temperature([(said[:20], label[:20])])
    errors = []
    for p in (said[20:], (said[20:].log() / found).softmax(1)):
        metric = CalibrationError()
        metric.update(p, label[20:])
        errors.append(float(metric.compute()["ece"]))
    assert errors[0] > 0.1 and errors[1] < 0.03


def test_nothing_but_sure_background_teaches_nothing():
    p = torch.tensor([0.0, 0.0, 0.0, 1.0])[None, :, None, None].expand(2, 4, 5, 5)
    assert fit_temperature([(p, torch.full((2, 5, 5), 3))]) == 1.0
