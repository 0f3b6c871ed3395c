import math

import pytest
import torch

from lenspipe.nets.metrics import PooledIoU


def test_pools_pixels_before_the_ratio():
    metric = PooledIoU()
    metric.update(torch.tensor([[0, 0, 3, 3]]), torch.tensor([[0, 3, 3, 3]]))
    metric.update(torch.tensor([[0, 3, 3, 3]]), torch.tensor([[0, 0, 0, 3]]))
    result = metric.compute()
    assert float(result["iou_source"]) == pytest.approx(2 / 5)  # hits 1 + 1 of 2 + 3 pixels
    assert float(result["iou_background"]) == pytest.approx(3 / 6)


def test_absent_classes_are_left_out_never_one():
    metric = PooledIoU()
    metric.update(torch.tensor([[0, 3]]), torch.tensor([[3, 3]]))
    result = metric.compute()
    assert math.isnan(result["iou_lens"])
    assert float(result["iou_source"]) == 0  # predicted where it is not: a miss, not an absence
    assert float(result["macro_iou"]) == pytest.approx((0 + 0.5) / 2)
