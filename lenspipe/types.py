"""What travels between rooms in memory. Frozen; shapes and units are stated once, here.

Legend: N objects, B bands, C classes, H W pixels, h w PSF pixels, P parameters, S draws.
Angles are arcseconds unless said otherwise; x grows with column, y with row, the origin is the
cutout's centre ``(N-1)/2``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, Reason

CLASSES = ("source", "lens", "noise", "background")
"""Order of the segmentation classes; ``noise`` means other objects (neighbours, stars)."""
DEFLECTOR = ("center_x", "center_y", "theta_E", "e1", "e2", "gamma1", "gamma2")
"""Order of the parameters that a network estimates: centre and Einstein radius (arcsec), ellipticity, shear."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def check_id(text: str, where: str) -> str:
    """`text` if it is safe as a file name, else `CandidateError` (`where` names file and row)."""
    if not _ID.fullmatch(text) or ".." in text:
        raise CandidateError(
            Reason.ID_INVALID,
            f"{where}: id {text!r} must be 1 to 64 of A-Z a-z 0-9 . _ + - and begin with a letter or digit.",
        )
    return text


@dataclass(frozen=True)
class Cutout:
    """One candidate's images on one pixel grid.

    Attributes
    ----------
    id : matches ``check_id``.
    bands : B names.
    image : (B, H, W) f4, in `unit`.
    sigma : (B, H, W) f4, total noise per pixel in `unit`; finite and positive also where `valid` is False.
    valid : (B, H, W) bool, pixels that may be used.
    psf : (B, h, w) f4, odd sizes, each band sums to 1.
    psf_fwhm : (B,) arcsec; finite where the PSF is a Gaussian, NaN where `psf` is all that is known.
    pixel_scale : arcsec per pixel.
    background_rms : (B,) in `unit`; NaN where `sigma` came as a map.
    exposure_time : (B,) effective gain, variance of the counts = flux / exposure_time; NaN where unknown.
    zero_point : (B,) AB magnitude of one `unit`; NaN where unknown.
    cd : (2, 2) degrees of (RA cos Dec, Dec) per pixel (x, y), or None where the orientation is unknown.
    ra, dec : degrees, NaN where unknown.
    sigma_measured : True where `sigma` was estimated from the image itself.
    notes : sentences about what was mended on the way in.
    """

    id: str
    bands: tuple[str, ...]
    image: NDArray[np.float32]
    sigma: NDArray[np.float32]
    valid: NDArray[np.bool_]
    psf: NDArray[np.float32]
    psf_fwhm: NDArray[np.float64]
    pixel_scale: float
    background_rms: NDArray[np.float64]
    exposure_time: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    cd: NDArray[np.float64] | None = None
    ra: float = float("nan")
    dec: float = float("nan")
    unit: str = ""
    sigma_measured: bool = False
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[1], self.image.shape[2]


@dataclass(frozen=True)
class Masks:
    """Class probabilities (C, H, W) f4 on the cutout's own grid, classes ordered as `CLASSES`.

    `origin` says what made them: the name of the weights, ``photutils`` or ``hand``.
    """

    probability: NDArray[np.float32]
    origin: str

    def of(self, name: str) -> NDArray[np.float32]:
        """(H, W) probability of class `name`."""
        return self.probability[CLASSES.index(name)]


@dataclass(frozen=True)
class Estimate:
    """What a network says of one deflector from its image: a Gaussian. It shows a fit where to begin and is no prior,
    for it has seen the same pixels.

    Attributes
    ----------
    mean : (7,) f8, ordered as `DEFLECTOR`, theta_E by its natural logarithm.
    covariance : (7, 7) f8.
    origin : name of the weights.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    origin: str


@dataclass(frozen=True)
class Posterior:
    """Draws of the constrained parameters, with units.

    Attributes
    ----------
    names, units : P each.
    samples : (chain, draw, P) f8; each chain is one independent ensemble, its walkers interleaved.
    log_prob : (chain, draw) f8, log posterior up to a constant.
    best : (P,) f8, the optimum in float64.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    samples: NDArray[np.float64]
    log_prob: NDArray[np.float64]
    best: NDArray[np.float64]
    meta: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """Simulated objects for a learner: images, the class of each, and everything that is true of it.

    Attributes
    ----------
    id : N ids.
    classes : C names.
    label : (N,) u1, index into `classes`.
    bands : B names of the images' planes.
    image : (N, B, H, W) f4, in `unit`.
    pixel_scale : arcsec per pixel.
    truth : name -> (N,) f8, NaN where it has no meaning for an object.
    series : name -> (N, T, B) f4, light curves; without any, empty.
    members : name -> (M,) f8, things of which an object has any number (subhaloes, images of a supernova); ``row`` is
        the object's number in this collection. Without any, empty.
    units : unit of each of `truth`, `series` and `members`.
    """

    id: tuple[str, ...]
    classes: tuple[str, ...]
    label: NDArray[np.uint8]
    bands: tuple[str, ...]
    image: NDArray[np.float32]
    unit: str
    pixel_scale: float
    truth: dict[str, NDArray[np.float64]]
    units: dict[str, str]
    series: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    members: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.integer]) -> Samples:
        """The objects of these rows, in this order."""
        kept = {int(row): new for new, row in enumerate(rows)}
        here = [i for i, row in enumerate(self.members["row"]) if int(row) in kept] if self.members else []
        members = {name: column[here] for name, column in self.members.items()}
        if members:
            members["row"] = np.array([kept[int(row)] for row in members["row"]], dtype=np.float64)
        return replace(
            self,
            id=tuple(self.id[row] for row in rows),
            label=self.label[rows],
            image=self.image[rows],
            truth={name: column[rows] for name, column in self.truth.items()},
            series={name: curves[rows] for name, curves in self.series.items()},
            members=members,
        )

    @classmethod
    def join(cls, parts: Sequence[Samples]) -> Samples:
        """All objects of `parts`, which are of one kind."""
        first = parts[0]
        starts = np.cumsum([0, *(len(part.id) for part in parts[:-1])])
        members = {name: np.concatenate([part.members[name] for part in parts]) for name in first.members}
        if members:
            rows = [part.members["row"] + start for part, start in zip(parts, starts)]
            members["row"] = np.concatenate(rows)
        return replace(
            first,
            id=tuple(i for part in parts for i in part.id),
            label=np.concatenate([part.label for part in parts]),
            image=np.concatenate([part.image for part in parts]),
            truth={name: np.concatenate([part.truth[name] for part in parts]) for name in first.truth},
            series={name: np.concatenate([part.series[name] for part in parts]) for name in first.series},
            members=members,
        )
