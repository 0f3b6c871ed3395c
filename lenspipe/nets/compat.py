"""Import this before timm, torchvision or segmentation-models-pytorch.

A torchvision built for CUDA cannot load its compiled operators beside a CPU build of torch, and its import then stops
at two shape functions for operators that do not exist (``torchvision::nms does not exist``). Nothing here uses these
operators, so they are declared, without a kernel, wherever they are missing.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import library

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _load_compiled() -> None:
    """Load torchvision's own operators where they can be loaded, so that they are not declared twice."""
    spec = importlib.util.find_spec("torchvision")
    for folder in spec.submodule_search_locations or () if spec else ():
        try:
            torch.ops.load_library(f"{folder}/_C.so")
        except OSError:
            continue


def _declare_missing() -> library.Library:
    fragment = library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            fragment.define(schema)
    return fragment


_load_compiled()
_LIBRARY = _declare_missing()
"""Kept: declarations end with the object that made them."""
