import pytest
import torch
from torch.nn import functional as F

from lenspipe.nets.config import LossConfig
from lenspipe.nets.losses import Loss
from lenspipe.types import CLASSES

NAMES = ("cross_entropy", "dice", "jaccard", "focal", "binary_cross_entropy")


def only(name, weight=1.0, **options):
    return Loss(LossConfig(**(dict.fromkeys(NAMES, 0.0) | {name: weight} | options)))


def logits_of(probability):
    return torch.tensor(probability).log()[None, :, None, None]


@pytest.mark.parametrize("name", NAMES)
def test_perfect_prediction_costs_nothing(name):
    label = torch.randint(0, 4, (3, 9, 9))
    logits = 50 * F.one_hot(label, 4).movedim(-1, 1).float()
    assert only(name)(logits, label).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_falls_towards_the_truth(name):
    label = torch.arange(64).reshape(1, 8, 8) % 4
    logits = torch.zeros(1, 4, 8, 8, requires_grad=True)
    only(name)(logits, label).backward()
    right = F.one_hot(label, 4).movedim(-1, 1).bool()
    assert (logits.grad[right] < 0).all() and (logits.grad[~right] > 0).all()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("cross_entropy", 0.693147),
        ("dice", 1 - 2 * 0.5 / 1.5),
        ("jaccard", 1 - 0.5),
        ("focal", 0.25 * 0.693147),
        ("binary_cross_entropy", -(4 * 0 + 0.693147 * -1 + torch.tensor([0.75, 0.9, 0.85]).log().sum().item()) / 4),
    ],
)
def test_value_of_one_pixel(name, expected):
    loss = only(name)(logits_of([0.5, 0.25, 0.1, 0.15]), torch.tensor([[[0]]]))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_overlaps_leave_out_classes_that_do_not_occur_and_pool_the_batch():
    label = torch.zeros((2, 1, 2), dtype=torch.long)
    label[0, 0, 0] = 1
    probability = torch.full((2, 4, 1, 2), 1e-7)
    probability[:, 0] = 1
    # Class 0: overlap 3 of 4 + 3; class 1: none; classes 2 and 3 do not count.
    assert only("dice")(probability.log(), label).item() == pytest.approx(1 - (6 / 7 + 0) / 2, abs=1e-5)
    assert only("jaccard")(probability.log(), label).item() == pytest.approx(1 - (3 / 4 + 0) / 2, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_background_alone_is_learnt_from(name):
    label = torch.full((2, 8, 8), CLASSES.index("background"))
    logits = torch.zeros(2, 4, 8, 8, requires_grad=True)
    loss = only(name)(logits, label)
    loss.backward()
    assert loss.isfinite() and (logits.grad[:, CLASSES.index("background")] < 0).all()
    assert logits.grad.isfinite().all()


def test_mixes_add_up_and_the_default_is_cross_entropy_and_dice():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, 6, 6), torch.randint(0, 4, (2, 6, 6))
    mix = Loss(LossConfig(cross_entropy=0.5, dice=0, jaccard=2, focal=3, binary_cross_entropy=1, focal_gamma=1))
    alone = 0.5 * only("cross_entropy")(logits, label) + 2 * only("jaccard")(logits, label)
    alone += 3 * only("focal", focal_gamma=1)(logits, label) + only("binary_cross_entropy")(logits, label)
    assert mix(logits, label).item() == pytest.approx(alone.item(), rel=1e-5)
    expected = F.cross_entropy(logits, label) + only("dice")(logits, label)
    assert Loss(LossConfig())(logits, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_sums_of_parts_give_the_loss_of_the_whole():
    torch.manual_seed(0)
    logits, label = torch.randn(5, 4, 6, 6), torch.randint(0, 4, (5, 6, 6))
    loss = Loss(LossConfig(jaccard=1, focal=1, binary_cross_entropy=1))
    parts = loss.sums(logits[:2], label[:2]) + loss.sums(logits[2:], label[2:])
    assert parts.shape == (loss.size,)
    assert loss.of(parts).item() == pytest.approx(loss(logits, label).item(), rel=1e-5)
