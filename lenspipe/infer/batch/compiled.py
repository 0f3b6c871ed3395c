"""The stacked likelihood through `torch.compile`: calls have few shapes, and each shape is compiled once.

What has been compiled is kept on disk, where TORCHINDUCTOR_CACHE_DIR says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lenspipe.infer.stack import Function, Stack, in_parts
from lenspipe.lensing.scene import Scene

GRAPHED = 8192
"""Vectors of a call below which a GPU waits for its kernels' launches, about: there a CUDA graph launches them."""
_SPARE = 8
"""A call may be as much longer than what is asked as this part of all that is asked."""
_PROGRAMS = 4096
"""Of one function. PyTorch's own limit is 8, and then it goes on without compiling and without a word."""
log = logging.getLogger(__name__)


def pieces(count: int, most: int | None = None) -> list[int]:
    """Powers of two, none above `most`, that add up to `count`, or to at most an eighth more; the largest first."""
    sizes, left = [], count
    while left > 0:
        size = 1 << (left - 1).bit_length()
        if size - left > count // _SPARE:
            size //= 2
        if most is not None:
            size = min(size, 1 << (max(most, 1).bit_length() - 1))
        sizes.append(size)
        left -= size
    return sizes


def compilable(scene: Scene) -> bool:
    """False for a scene with an EPL: how many terms its series takes is read from the vectors at every call."""
    return all(component.profile != "EPL" for component in scene.lens)


class Compiled:
    """Calls functions of a stack compiled (`lenspipe.infer.stack.Calls`); where that does not work, as they are."""

    def __init__(self) -> None:
        torch._dynamo.config.recompile_limit = _PROGRAMS
        torch._dynamo.config.accumulated_recompile_limit = _PROGRAMS
        self._compiled: dict[tuple[Function, bool], Callable[..., Any]] = {}
        self._failed = False

    def __call__(self, function: Function, stack: Stack, vectors: Tensor, non_negative: bool) -> tuple[Tensor, ...]:
        if self._failed or not compilable(stack.scene):
            return in_parts(function, stack, vectors, non_negative)
        try:
            return self._in_pieces(function, stack, vectors, non_negative)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what a compiler may raise is nowhere written down
            failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        found = in_parts(function, stack, vectors, non_negative)
        self._failed = True
        log.warning("torch.compile does not work here (%s): on without it, with the same results", failure)
        return found

    def _in_pieces(self, function: Function, stack: Stack, vectors: Tensor, non_negative: bool) -> tuple[Tensor, ...]:
        found, left = [], vectors
        for size in pieces(vectors.shape[1], stack.largest):
            part, left = left[:, :size], left[:, size:]
            count = part.shape[1]
            if count < size:
                part = torch.cat([part, part[:, :1].expand(-1, size - count, -1)], 1)
            results = self._call(function, stack, part.contiguous(), non_negative)
            found.append([result[:, :count] for result in results])
        return tuple(torch.cat(parts, 1) for parts in zip(*found))

    def _call(self, function: Function, stack: Stack, vectors: Tensor, non_negative: bool) -> tuple[Tensor, ...]:
        graphed = vectors.is_cuda and vectors.shape[0] * vectors.shape[1] <= GRAPHED
        key = (function, graphed)
        if key not in self._compiled:
            mode = "reduce-overhead" if graphed else None
            self._compiled[key] = torch.compile(function, dynamic=False, fullgraph=True, mode=mode)
        if not graphed:
            found: tuple[Tensor, ...] = self._compiled[key](stack, vectors, non_negative)
            return found
        torch.compiler.cudagraph_mark_step_begin()
        # The next run of a graph overwrites what this one returns.
        return tuple(result.clone() for result in self._compiled[key](stack, vectors, non_negative))
