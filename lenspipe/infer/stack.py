"""The imaging likelihood in torch: of one candidate's parameter vectors, or of many candidates' in one tensor program.

Legend: N candidates, K parameter vectors of each, P parameters, B bands, L light components (+ 1 sky), H W pixels,
D = H W, T templates, M points of refined pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lenspipe.infer import linear
from lenspipe.lensing.grid import bin_mean
from lenspipe.lensing.psf import GaussianBlur, KernelBlur

if TYPE_CHECKING:
    from lenspipe.infer.likelihood import Likelihood

_BUCKET = 16
"""Images share a program whose sides are equal when rounded up to this many pixels: they are padded to the largest."""
_TEMPORARIES = 8
"""Images of a vector's points that are alive at once while profiles are evaluated, about."""
IMPOSSIBLE = -1e18
"""logL of a vector for which nothing finite can be computed."""


@dataclass(frozen=True)
class Solution:
    """Best amplitudes (..., B, L) per arcsec^2 and what follows from them, for vectors (..., P).

    Attributes
    ----------
    layers : (..., L, B, H, W) responses of the components.
    model : (..., B, H, W).
    normal : (..., B, L, L).
        With templates, `model` and `normal` are what is left of them after projection onto the templates.
    """

    layers: Tensor
    amplitudes: Tensor
    model: Tensor
    normal: Tensor


def bucket(likelihood: Likelihood) -> Hashable:
    """What candidates must have in common to be stacked."""
    blur = likelihood.blur
    kernel = blur.kernels.shape if isinstance(blur, KernelBlur) else None
    templates = None if likelihood.basis is None else likelihood.basis.shape[1]
    sides = tuple(-(-n // _BUCKET) for n in likelihood.data.shape)
    options = (likelihood.supersampling, likelihood.marginalise, likelihood.poisson, str(likelihood.dtype))
    return (likelihood.scene, len(likelihood.image), kernel, templates, sides, options)


class Stack:
    """Candidates of one `bucket`, side by side. Vectors are (N, K, P) throughout.

    Parameters
    ----------
    members : N likelihoods; their tensors are taken to `device`.
    memory : bytes that the temporaries of a call may take; longer calls go in parts.
    calls : calls the functions below with all vectors of a request.
    """

    def __init__(
        self,
        members: Sequence[Likelihood],
        device: torch.device | str | None = None,
        memory: float = 2e9,
        calls: Calls | None = None,
    ):
        first, self._calls = members[0], calls or in_parts
        self.scene, self.dtype, self.poisson = first.scene, first.dtype, first.poisson
        self.supersampling, self.marginalise, self.memory = first.supersampling, first.marginalise, memory
        self.device = torch.device(device if device is not None else first.device)
        self.positive = first.n_positive
        height, width = (max(m.data.shape[i] for m in members) for i in (0, 1))
        self.shape = (height, width)
        s = self.supersampling

        def stacked(tensors: Sequence[Tensor], height: int, width: int) -> Tensor:
            padded = [F.pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2])) for t in tensors]
            return (padded[0][None] if len(padded) == 1 else torch.stack(padded)).to(self.device)

        def images(name: str) -> Tensor:
            return stacked([getattr(m, name) for m in members], height, width)

        self.x = stacked([m.x for m in members], 1, width * s)
        self.y = stacked([m.y for m in members], height * s, 1)
        self.image, self.weight, self.weighted, self.mask = map(images, ("image", "weight", "weighted", "mask"))
        self.floor = stacked([m.floor for m in members], 1, 1) if self.poisson else None
        self.per_flux = stacked([m.per_flux for m in members], 1, 1) if self.poisson else None
        self.basis = None if first.basis is None else images("basis")
        # One layer of (N, 1, B, H, W).
        self.sky = (
            None if first.sky is None else stacked([m.sky[0] for m in members if m.sky is not None], height, width)
        )
        self.frame: Tensor | None = None
        blurs = [m.blur for m in members]
        gaussians = [b for b in blurs if isinstance(b, GaussianBlur)]
        kernels = [b for b in blurs if isinstance(b, KernelBlur)]
        self.gaussian = bool(gaussians)
        if gaussians:
            self.rows = stacked([b.rows for b in gaussians], height, height)
            self.columns = stacked([b.column_operators for b in gaussians], width, width)
        else:
            unequal = any(m.data.shape != self.shape for m in members)
            if unequal:
                kernels = [KernelBlur(self.shape, b.kernels, self.dtype) for b in kernels]
            self.transform = torch.stack([b.transform for b in kernels]).to(self.device)
            self.size, self.offset = kernels[0].size, kernels[0].offset
            if unequal:
                # What lies beyond a smaller image's edge must not be blurred into it.
                self.frame = images("mask")[:, :1].new_zeros(len(members), 1, 1, height, width)
                for frame, m in zip(self.frame, members):
                    frame[..., : m.data.shape[0], : m.data.shape[1]] = 1
        self._refine(members)

    def _refine(self, members: Sequence[Likelihood]) -> None:
        """Points of the pixels with subpixels of their own: positions (N, 1, M), their pixels and shares (N, M)."""
        self.points: Tensor | None = None
        if not any(m.patches for m in members):
            return
        width = self.shape[1]
        lists: list[list[Tensor]] = [[], [], [], []]
        coarse = torch.ones(len(members), 1, self.shape[0] * width, dtype=self.dtype)
        for n, m in enumerate(members):
            at = [torch.as_tensor(p.rows * width + p.columns) for p in m.patches]
            counts = [p.x.shape[1] for p in m.patches]
            for a in at:
                coarse[n, 0, a] = 0
            none = torch.zeros(0, dtype=self.dtype)
            lists[0].append(torch.cat([none, *(p.x.flatten().cpu() for p in m.patches)]))
            lists[1].append(torch.cat([none, *(p.y.flatten().cpu() for p in m.patches)]))
            lists[2].append(torch.cat([none.long(), *(a.repeat_interleave(c) for a, c in zip(at, counts))]))
            shares = (torch.full((len(a) * c,), 1 / c, dtype=self.dtype) for a, c in zip(at, counts))
            lists[3].append(torch.cat([none, *shares]))
        most = max(len(x) for x in lists[0])
        x, y, pixel, share = (torch.stack([F.pad(t, (0, most - len(t))) for t in ts]).to(self.device) for ts in lists)
        self.points, self.pixel, self.share = torch.stack([x, y])[:, :, None], pixel, share
        self.coarse = coarse.to(self.device)

    @property
    def largest(self) -> int:
        """Vectors of each candidate that go through in one part."""
        points = self.supersampling**2 * self.shape[0] * self.shape[1]
        if self.points is not None:
            points += self.points.shape[-1]
        layers = len(self.scene.amplitudes) * (3 * self.image.shape[1] + self.supersampling**2)
        each = (points * _TEMPORARIES + layers * self.shape[0] * self.shape[1]) * self.image.element_size()
        return max(1, int(self.memory / (each * len(self.image))))

    def log_likelihood(self, vectors: Tensor, non_negative: bool) -> tuple[Tensor, Tensor]:
        """(N, K) float64 log L without penalty, never NaN, and the number of bands with a negative amplitude."""
        value, negative = self._calls(log_likelihood, self, vectors, non_negative)
        return value, negative

    def residuals(self, vectors: Tensor, non_negative: bool) -> Tensor:
        """(N, K, B D) normalised residuals, 0 where masked, 1e6 where not finite."""
        (found,) = self._calls(residuals, self, vectors, non_negative)
        return found

    def solve(self, vectors: Tensor, non_negative: bool) -> Solution:
        """Response of each component, amplitudes and model of (N, K, P) `vectors`."""
        layers = self.response(vectors)
        flat, weight = layers.flatten(-2), self.weight.flatten(-2)[:, None, None]
        weighted = flat * weight
        if self.basis is not None:
            basis = self.basis.flatten(-2)
            shared = torch.einsum("nklbd,nbtd->nklbt", weighted, basis)
            flat = flat - torch.einsum("nklbt,nbtd->nklbd", shared, basis)
            weighted = flat * weight
        normal = torch.einsum("nklbd,nkmbd->nkblm", weighted, flat)
        right = torch.einsum("nklbd,nbd->nkbl", flat, self.weighted.flatten(-2))
        if non_negative:
            amplitudes = linear.solve_non_negative(normal, right, self.positive)
        else:
            amplitudes = linear.solve(normal, right)
        model = torch.einsum("nkbl,nklbd->nkbd", amplitudes.to(self.dtype), flat)
        return Solution(layers, amplitudes, model.unflatten(-1, self.shape), normal)

    def response(self, vectors: Tensor) -> Tensor:
        """(N, K, L, B, H, W): each component's blurred image at unit amplitude."""
        blurred = self._blur(self.unblurred(vectors))
        if self.sky is None:
            return blurred
        sky = self.sky[:, None].expand(-1, vectors.shape[1], -1, -1, -1, -1)
        return torch.cat([blurred, sky], dim=2)

    def unblurred(self, vectors: Tensor) -> Tensor:
        """(N, K, L, B or 1, H, W): each light's mean surface brightness over the pixels, at unit amplitude."""
        N, K, P = vectors.shape
        rows = vectors.reshape(N * K, P).to(self.device, self.dtype)

        def layers(x: Tensor, y: Tensor) -> Tensor:
            if N > 1:
                x, y = x.repeat_interleave(K, 0), y.repeat_interleave(K, 0)
            found = self.scene.light_layers(rows, x, y)
            return found if self.scene.bands else found.unsqueeze(2)

        means = bin_mean(layers(self.x, self.y), self.supersampling)
        if self.points is not None:
            finer = layers(*self.points)[..., 0, :].unflatten(0, (N, K)) * self.share[:, None, None, None]
            flat = means.flatten(-2).unflatten(0, (N, K)) * self.coarse[:, None, None]
            at = self.pixel[:, None, None, None].expand_as(finer)
            means = flat.scatter_add(-1, at, finer).flatten(0, 1).unflatten(-1, self.shape)
        return means.unflatten(0, (N, K))

    def variance(self, model: Tensor) -> Tensor:
        """(N, K, B, H, W) variance of each pixel for a model of that shape; 1 where masked."""
        if self.floor is not None and self.per_flux is not None:
            return self.floor[:, None] + model.clamp(min=0) * self.per_flux[:, None]
        fixed = torch.where(self.weight > 0, 1 / self.weight.clamp(min=1e-30), torch.ones_like(self.weight))
        return fixed[:, None].expand_as(model)

    def _blur(self, layers: Tensor) -> Tensor:
        """(N, K, L, B or 1, H, W) -> (N, K, L, B, H, W)."""
        if not self.gaussian:
            if self.frame is not None:
                layers = layers * self.frame[:, None]
            spectrum = torch.fft.rfft2(layers, self.size) * self.transform[:, None, None]
            (top, left), (height, width) = self.offset, self.shape
            return torch.fft.irfft2(spectrum, self.size)[..., top : top + height, left : left + width]
        N, K, L = layers.shape[:3]
        if layers.shape[3] == 1:
            # All bands' column operators side by side: one matrix product for the lot.
            wide = layers.reshape(N, -1, self.shape[1]) @ self.columns.transpose(1, 2).flatten(2)
            across = wide.view(N, K * L, self.shape[0], -1, self.shape[1]).transpose(2, 3)
        else:
            across = layers.flatten(1, 2) @ self.columns[:, None]
        return (self.rows[:, None] @ across).unflatten(1, (K, L))


Function = Callable[[Stack, Tensor, bool], tuple[Tensor, ...]]
"""Of a stack, vectors (N, K, P) and whether amplitudes may be negative; what it returns begins with (N, K)."""
Calls = Callable[[Function, Stack, Tensor, bool], tuple[Tensor, ...]]
"""How a function is called with more vectors than may go through it at once."""


def in_parts(function: Function, stack: Stack, vectors: Tensor, non_negative: bool) -> tuple[Tensor, ...]:
    """As many vectors at a time as the memory allows."""
    found = [function(stack, part, non_negative) for part in vectors.split(stack.largest, dim=1)]
    return tuple(torch.cat(parts, 1) for parts in zip(*found))


def log_likelihood(stack: Stack, vectors: Tensor, non_negative: bool) -> tuple[Tensor, ...]:
    """`Stack.log_likelihood` of vectors that go through at once."""
    found = stack.solve(vectors, non_negative)
    residual = (stack.image[:, None] - found.model) * stack.mask[:, None]
    squares = residual.square() * (1 / stack.variance(found.model) if stack.poisson else stack.weight[:, None])
    value = -0.5 * squares.sum((-1, -2, -3), dtype=torch.float64)
    if stack.marginalise:
        value = value - 0.5 * linear.log_determinant(found.normal)
    value = torch.nan_to_num(value, nan=IMPOSSIBLE, posinf=IMPOSSIBLE, neginf=IMPOSSIBLE)
    return value, (found.amplitudes[..., : stack.positive] < 0).any(-1).sum(-1).double()


def residuals(stack: Stack, vectors: Tensor, non_negative: bool) -> tuple[Tensor, ...]:
    """`Stack.residuals` of vectors that go through at once."""
    model = stack.solve(vectors, non_negative).model
    found = (stack.image[:, None] - model) * torch.rsqrt(stack.variance(model)) * stack.mask[:, None]
    return (torch.nan_to_num(found.flatten(2), nan=1e6, posinf=1e6, neginf=-1e6),)
