"""The batched imaging likelihood, number for number lenstronomy's multi-linear one (Birrer et al. 2015, ApJ 813, 102).

Legend: K parameter vectors, P parameters, B bands, L light components (+ 1 sky), H W pixels, D used pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.errors import LenspipeError
from lenspipe.infer import linear
from lenspipe.infer.stack import IMPOSSIBLE, Solution, Stack
from lenspipe.lensing import kernel
from lenspipe.lensing.grid import axes, patches
from lenspipe.lensing.psf import Blur, GaussianBlur, KernelBlur
from lenspipe.lensing.scene import Scene

NEGATIVE_FLUX = -1e8
"""Added to logL for each band with a negative amplitude, as lenstronomy does."""
Engine = Literal["auto", "kernel", "torch"]
_wanted: ContextVar[Engine] = ContextVar("engine", default="auto")


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Likelihoods made meanwhile run on `engine`, wherever they are made."""
    token = _wanted.set(engine)
    try:
        yield
    finally:
        _wanted.reset(token)


@dataclass(frozen=True)
class Imaging:
    """What the likelihood needs to know of one candidate.

    Attributes
    ----------
    image : (B,H,W) in any flux unit.
    mask : (B,H,W) bool, pixels that count.
    sigma : (B,H,W), used where `exposure_time` is None: then the variance does not depend on the model.
    background_rms, exposure_time : (B,) or None. With them the variance is background_rms^2 + flux / exposure_time,
        from the data in the linear solve and from the model in chi-square, as in lenstronomy.
    psf : (B,h,w) kernels, used where `psf_fwhm` is None.
    psf_fwhm : (B,) arcsec, Gaussian PSFs.
    templates : (B,T,H,W) blurred images, in any unit, each with a free amplitude in its band; all zero where a band has
        fewer, the last one a uniform sky. A lens light whose shape is held. They need `sigma`.
    """

    image: NDArray[np.floating]
    mask: NDArray[np.bool_]
    pixel_scale: float
    sigma: NDArray[np.floating] | None = None
    background_rms: NDArray[np.float64] | None = None
    exposure_time: NDArray[np.float64] | None = None
    psf: NDArray[np.floating] | None = None
    psf_fwhm: NDArray[np.float64] | None = None
    templates: NDArray[np.floating] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[2]

    def distance(self, centre: tuple[float, float]) -> NDArray[np.float64]:
        """(H,W) arcsec of each pixel from `centre` (x, y)."""
        x, y = axes(*self.shape, self.pixel_scale)
        return np.hypot(x.numpy() - centre[0], y.numpy() - centre[1])


@dataclass(frozen=True)
class Parts:
    """A model's images (B,H,W) in the data's flux unit; `model` is their sum with the sky."""

    source: NDArray[np.float64]
    lens_light: NDArray[np.float64]
    model: NDArray[np.float64]


class Likelihood:
    """log L of (K, P) physical parameter vectors, every linear amplitude solved for.

    Templates are projected out once: what they can explain is taken from the data here and from each layer at every
    evaluation: least squares over their amplitudes too (variable projection, Golub & Pereyra 1973).

    Parameters
    ----------
    data : `Imaging`.
    scene : `Scene`; the parameter order is ``scene.names``.
    dtype : of the pixel arithmetic; chi-square and the solve are accumulated in float64 either way.
    supersampling : subpixels per pixel and axis at which profiles are evaluated before the mean over the pixel.
    subpixels : (H,W) multiples of 4 for pixels that have more than that, else 0; see `lenspipe.infer.subpixels`.
    marginalise : subtract ln det(M) / 2, which turns the maximum over flat amplitudes into their integral.
    chunk : vectors that torch evaluates at a time; small keeps the work in the cache.
    engine : ``kernel`` compiled for the CPU, ``torch``, or ``auto``: the kernel where it can. Afterwards
        `Likelihood.engine` says which. Vectors that require a gradient go through torch in any case. None: see `using`.
    """

    def __init__(
        self,
        data: Imaging,
        scene: Scene,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        supersampling: int = 1,
        marginalise: bool = False,
        chunk: int = 16,
        engine: Engine | None = None,
        subpixels: NDArray[np.integer] | None = None,
    ):
        engine = engine or _wanted.get()
        self.data, self.scene = data, scene
        self.dtype, self.device = dtype, device
        self.supersampling, self.marginalise, self.chunk = supersampling, marginalise, chunk
        shape = data.shape
        self.x, self.y = axes(*shape, data.pixel_scale, supersampling, dtype, device)
        self.subpixels = subpixels
        self.patches = [] if subpixels is None else patches(subpixels, data.pixel_scale, dtype, device)
        self.blur = blur_of(data, dtype, device)
        # Work in units of the typical noise: flux units of 1e-12 would underflow in float32.
        variance = self._variance(np.asarray(data.image, dtype=np.float64))
        self.unit = float(np.sqrt(np.median(variance[data.mask])))
        mask = data.mask.astype(np.float64)
        image = np.where(data.mask, np.asarray(data.image, dtype=np.float64) / self.unit, 0.0)
        inverse = np.where(data.mask, 1.0 / (variance / self.unit**2), 0.0)
        self.poisson = data.exposure_time is not None
        self.basis = None
        if data.templates is not None:
            if self.poisson:
                raise ValueError("templates need a fixed noise map")
            basis = linear.orthonormal(data.templates, mask * np.sqrt(inverse))
            image = image - np.einsum("bt,bthw->bhw", np.einsum("bthw,bhw->bt", basis, inverse * image), basis)
            self.basis = self._tensor(basis)
        self.mask, self.image = self._tensor(mask), self._tensor(image)
        self.weight, self.weighted = self._tensor(mask * inverse), self._tensor(mask * inverse * image)
        if data.exposure_time is not None and data.background_rms is not None:
            self.floor = self._tensor((data.background_rms / self.unit) ** 2)[:, None, None]
            # In units of `unit`, flux / exposure_time becomes flux / (exposure_time * unit).
            self.per_flux = self._tensor(1 / (data.exposure_time * self.unit))[:, None, None]
        # lenstronomy's UNIFORM is blurred like any light, so with a pixel kernel a sky fades at the very edge.
        self.sky = self.blur(torch.ones(1, 1, *shape, dtype=dtype, device=device)) if scene.sky else None
        self.pixel_area = data.pixel_scale**2
        self.stack = Stack([self])
        self.kernel = None if engine == "torch" else self._kernel()
        if engine == "kernel" and self.kernel is None:
            raise LenspipeError(
                "engine: kernel: it is not built, or has not these profiles or this PSF; auto takes torch then."
            )
        self.engine: Engine = "kernel" if self.kernel else "torch"

    def to(self, dtype: torch.dtype) -> Likelihood:
        """The same likelihood in another precision."""
        options = (self.device, self.supersampling, self.marginalise, self.chunk)
        return Likelihood(self.data, self.scene, dtype, *options, subpixels=self.subpixels)

    def on(self, data: Imaging) -> Likelihood:
        """The same likelihood of other data."""
        options = (self.dtype, self.device, self.supersampling, self.marginalise, self.chunk)
        return Likelihood(data, self.scene, *options, subpixels=self.subpixels)

    def refined(self, subpixels: NDArray[np.integer]) -> Likelihood:
        """The same likelihood with (H,W) `subpixels`."""
        options = (self.dtype, self.device, self.supersampling, self.marginalise, self.chunk)
        return Likelihood(self.data, self.scene, *options, subpixels=subpixels)

    def masked(self, mask: NDArray[np.bool_]) -> Likelihood:
        """The same likelihood of the pixels in `mask` (B,H,W)."""
        return self.on(replace(self.data, mask=mask))

    @property
    def n_data(self) -> int:
        """D, the number of pixels that count, all bands together."""
        return int(self.data.mask.sum())

    @property
    def n_templates(self) -> int:
        """Free amplitudes of the templates, all bands together."""
        return 0 if self.basis is None else int((self.basis != 0).any(-1).any(-1).sum())

    @property
    def n_positive(self) -> int:
        """Amplitudes per band that are fluxes; a sky, which may be negative, comes after them."""
        return len(self.scene.amplitudes) - int(self.scene.sky)

    def __call__(self, vectors: Tensor) -> Tensor:
        """(K,) float64 log-likelihoods with lenstronomy's penalty for negative fluxes. Never NaN."""
        value, negative = self.parts(vectors)
        return value + NEGATIVE_FLUX * negative

    def parts(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """log L without penalty, and the number of bands with a negative amplitude: (K,) float64 each."""
        if self.kernel is not None and not vectors.requires_grad:
            value, negative = map(torch.from_numpy, self.kernel.log_likelihood(vectors.cpu().numpy()))
        else:
            parts = [self.stack.log_likelihood(v[None], non_negative=False) for v in vectors.split(self.chunk)]
            value, negative = (torch.cat(p, 1)[0] for p in zip(*parts))
        return _finite(value), negative

    def non_negative(self, vectors: Tensor) -> Tensor:
        """(K,) float64 log L at the best amplitudes that are not negative: what is sampled.

        Equal to `parts` where no band has a negative amplitude, and continuous where one gets one: a band in which
        the source is lost in the noise then costs what it costs, instead of ruling the model out.
        """
        if self.kernel is not None and not vectors.requires_grad:
            value = torch.from_numpy(self.kernel.log_likelihood(vectors.cpu().numpy(), non_negative=True)[0])
        else:
            parts = [self.stack.log_likelihood(v[None], non_negative=True)[0] for v in vectors.split(self.chunk)]
            value = torch.cat(parts, 1)[0]
        return _finite(value)

    def solve(self, vectors: Tensor, non_negative: bool = False) -> Solution:
        """Response of each component, amplitudes and model of (K, P) `vectors`, in units of `unit`."""
        found = self.stack.solve(vectors[None], non_negative)
        return Solution(*(getattr(found, f.name)[0] for f in fields(found)))

    def response(self, vectors: Tensor) -> Tensor:
        """(K, L, B, H, W): each component's blurred image at unit amplitude."""
        return self.stack.response(vectors[None])[0]

    def images(self, vector: NDArray[np.float64]) -> Parts:
        """The images of a (P,) vector at its best amplitudes that are not negative."""
        found = self.solve(torch.as_tensor(vector)[None], non_negative=True)
        layers, amplitudes = found.layers[0].double().numpy(), found.amplitudes[0].numpy()
        parts = np.einsum("bl,lbhw->lbhw", amplitudes, layers) * self.unit
        source, light = np.split(parts[: self.n_positive], [len(self.scene.source)])
        source, light, model = source.sum(0), light.sum(0), parts.sum(0)
        if self.data.templates is not None:
            weights = self.template_amplitudes(found)[0]
            light = np.einsum("bt,bthw->bhw", weights[:, :-1], self.data.templates[:, :-1])
            model = model + light + weights[:, -1:, None] * self.data.templates[:, -1]
        return Parts(source, light, model)

    def template_amplitudes(self, found: Solution) -> NDArray[np.float64]:
        """(K,B,T) amplitudes of the templates beside a `Solution` of (K, P) vectors, in the data's flux unit.

        Only the last, the sky's, may be negative: free ones, as the likelihood has them, share a broad light and the
        sky out among each other as the noise will have it.
        """
        data = self.data
        assert data.templates is not None and data.sigma is not None
        model = torch.einsum("kbl,klbhw->kbhw", found.amplitudes.to(self.dtype), found.layers).double().numpy()
        weight = np.where(data.mask, 1 / data.sigma, 0.0)
        left = data.image - model * self.unit
        return np.stack([linear.non_negative_but_last(data.templates, image, weight) for image in left])

    def significance(self, vector: Tensor) -> NDArray[np.float64]:
        """(H,W) residual data - model of a (P,) vector in sigma, the used pixels of all bands together."""
        found = self.solve(vector[None], non_negative=True)
        residual = (self.image - found.model)[0] * torch.rsqrt(self.variance(found.model))[0] * self.mask
        return np.asarray((residual.sum(0) / torch.sqrt(self.mask.sum(0).clamp(min=1))).numpy(), dtype=np.float64)

    def variance(self, model: Tensor) -> Tensor:
        """(K,B,H,W) variance of each pixel, in units of `unit`^2; 1 where masked."""
        return self.stack.variance(model[None])[0]

    def residuals(self, vectors: Tensor, non_negative: bool = True) -> Tensor:
        """(K, D) normalised residuals of the used pixels: half their squares' sum is -log L. For least squares."""
        if self.kernel is not None and not vectors.requires_grad:
            found = torch.from_numpy(self.kernel.residuals(vectors.cpu().numpy(), non_negative))
            return torch.nan_to_num(found, nan=1e6, posinf=1e6, neginf=-1e6)
        keep = self.mask.flatten() > 0
        return torch.cat([self.stack.residuals(v[None], non_negative)[0][:, keep] for v in vectors.split(self.chunk)])

    def _kernel(self) -> kernel.Kernel | None:
        plain = torch.device(self.device).type == "cpu" and self.dtype in (torch.float32, torch.float64)
        if not (plain and kernel.supports(self.scene, self.blur) and kernel.available()):
            return None

        def array(tensor: Tensor) -> NDArray[np.float64]:
            return tensor.double().numpy()

        return kernel.Kernel(
            self.scene,
            self.blur,
            x=array(self.x.flatten()),
            y=array(self.y.flatten()),
            image=array(self.image),
            weight=array(self.weight),
            weighted=array(self.weighted),
            mask=array(self.mask),
            floor=array(self.floor.flatten()) if self.poisson else None,
            per_flux=array(self.per_flux.flatten()) if self.poisson else None,
            sky=None if self.sky is None else array(self.sky[0, 0]),
            basis=None if self.basis is None else array(self.basis),
            dtype=np.dtype(np.float32 if self.dtype == torch.float32 else np.float64),
            supersampling=self.supersampling,
            marginalise=self.marginalise,
            patches=self.patches,
        )

    def _variance(self, image: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B,H,W) variance estimated from the data, for the linear solve."""
        data = self.data
        if data.exposure_time is None or data.background_rms is None:
            if data.sigma is None:
                raise ValueError("Imaging needs sigma, or background_rms and exposure_time")
            return np.where(data.mask, np.asarray(data.sigma, dtype=np.float64) ** 2, 1.0)
        poisson = np.clip(np.nan_to_num(image), 0, None) / data.exposure_time[:, None, None]
        return np.asarray(data.background_rms[:, None, None] ** 2 + poisson)

    def _tensor(self, array: NDArray[np.floating]) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=self.dtype, device=self.device)


def _finite(value: Tensor) -> Tensor:
    return torch.nan_to_num(value, nan=IMPOSSIBLE, posinf=IMPOSSIBLE, neginf=IMPOSSIBLE)


def blur_of(data: Imaging, dtype: torch.dtype, device: torch.device | str) -> Blur:
    if data.psf_fwhm is not None:
        return GaussianBlur(data.shape, data.psf_fwhm, data.pixel_scale, dtype, device)
    if data.psf is None:
        raise ValueError("Imaging needs psf or psf_fwhm")
    kernels = data.psf / data.psf.sum((-2, -1), keepdims=True)
    return KernelBlur(data.shape, kernels, dtype, device)
