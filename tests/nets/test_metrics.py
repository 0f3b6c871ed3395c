import math

import pytest
import torch

from lenspipe.nets.metrics import CalibrationError, NearIoU, Scores


def test_pools_pixels_before_the_ratio():
    metric = Scores()
    metric.update(torch.tensor([[0, 0, 3, 3]]), torch.tensor([[0, 3, 3, 3]]))
    metric.update(torch.tensor([[0, 3, 3, 3]]), torch.tensor([[0, 0, 0, 3]]))
    result = metric.compute()
    assert float(result["iou_source"]) == pytest.approx(2 / 5)  # hits 1 + 1 of 2 + 3 pixels
    assert float(result["iou_background"]) == pytest.approx(3 / 6)


def test_absent_classes_are_left_out_never_one():
    metric = Scores()
    metric.update(torch.tensor([[0, 3]]), torch.tensor([[3, 3]]))
    result = metric.compute()
    assert math.isnan(result["iou_lens"])
    assert float(result["iou_source"]) == 0  # predicted where it is not: a miss, not an absence
    assert float(result["macro_iou"]) == pytest.approx((0 + 0.5) / 2)


def test_all_ratios_of_one_confusion_matrix():
    metric = Scores()
    metric.update(torch.tensor([[0, 0, 3, 3, 1, 3]]), torch.tensor([[0, 3, 3, 3, 0, 1]]))
    result = {name: float(value) for name, value in metric.compute().items()}
    assert result["iou_source"] == pytest.approx(1 / 3)  # one hit of 2 + 2
    assert result["dice_source"] == pytest.approx(2 / 4)
    assert result["precision_source"] == pytest.approx(1 / 2)
    assert result["recall_background"] == pytest.approx(2 / 3)
    assert result["iou_lens"] == 0
    assert math.isnan(result["iou_noise"])
    assert result["macro_iou"] == pytest.approx((1 / 3 + 0 + 2 / 4) / 3)
    assert result["macro_iou_foreground"] == pytest.approx((1 / 3 + 0) / 2)
    # Not source: 3 of the 5 pixels that the one or the other calls so.
    assert result["iou_source_with_background"] == pytest.approx((1 / 3 + 3 / 5) / 2)


def test_near_iou_forgives_one_pixel_and_no_more():
    truth = torch.full((1, 9, 9), 3)
    truth[0, 4, 2:7] = 0
    for shift, expected in ((0, 1.0), (1, 1.0), (2, 0.0)):
        metric = NearIoU()
        metric.update(truth.roll(shift, 1), truth)
        result = metric.compute()
        assert float(result["near_iou_source"]) == pytest.approx(expected)
        assert math.isnan(result["near_iou_lens"])
    found_half = truth.clone()
    found_half[0, 4, 4:7] = 3
    metric = NearIoU()
    metric.update(found_half, truth)
    assert float(metric.compute()["near_iou_source"]) == pytest.approx(3 / 5)  # two found, and one beside them


def test_calibration_error_counts_what_is_not_surely_background():
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], [0.0, 0.0, 0.002, 0.998]]).T[None, :, None]
    metric = CalibrationError()
    metric.update(p, torch.tensor([[[0, 1, 0]]]))
    assert float(metric.compute()["ece"]) == pytest.approx(0.2, abs=1e-6)  # said 0.7, right half the time


def test_sums_of_two_processes_are_those_of_one():
    torch.manual_seed(0)
    p, label = torch.rand(4, 4, 8, 8).softmax(1), torch.randint(0, 4, (4, 8, 8))
    for whole, parts, see in (
        (CalibrationError(), [CalibrationError(), CalibrationError()], lambda m, r: m.update(p[r], label[r])),
        (NearIoU(), [NearIoU(), NearIoU()], lambda m, r: m.update(p[r].argmax(1), label[r])),
    ):
        see(whole, slice(0, 4))
        for part, rows in zip(parts, (slice(0, 1), slice(1, 4))):
            see(part, rows)
        (name,) = whole._reductions
        total = sum(getattr(part, name) for part in parts)
        assert torch.allclose(total, getattr(whole, name))
