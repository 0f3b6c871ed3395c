import pytest
import torch
from torch.nn import functional as F

from lenspipe.nets.losses import cross_entropy_dice, dice


def test_perfect_prediction_costs_nothing():
    label = torch.randint(0, 4, (3, 9, 9))
    logits = 50 * F.one_hot(label, 4).movedim(-1, 1).float()
    assert cross_entropy_dice(logits, label).item() == pytest.approx(0, abs=1e-5)


def test_dice_leaves_out_classes_that_do_not_occur():
    label = torch.zeros((1, 2, 2), dtype=torch.long)
    label[0, 0, 0] = 1
    probability = torch.zeros(1, 4, 2, 2)
    probability[0, 0] = 1
    # Class 0: overlap 3 of 4 + 3; class 1: no overlap; classes 2 and 3 do not count.
    assert dice(probability, label).item() == pytest.approx(1 - (6 / 7 + 0) / 2)


def test_gradient_falls_towards_the_truth():
    label = torch.randint(0, 4, (2, 8, 8))
    logits = torch.zeros(2, 4, 8, 8, requires_grad=True)
    cross_entropy_dice(logits, label).backward()
    right = F.one_hot(label, 4).movedim(-1, 1).bool()
    assert (logits.grad[right] < 0).all() and (logits.grad[~right] > 0).all()
