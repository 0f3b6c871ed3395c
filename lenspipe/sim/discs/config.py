"""Every number of the discs and of the telescope that looks at them."""

from __future__ import annotations

from pydantic import Field, model_validator

from lenspipe.config import Config
from lenspipe.sim.learners import Range

CLASSES = ("no_planet", "planet")


class Discs(Config):
    """Star, disc, structure, planet."""

    distance: Range = Field((100.0, 200.0), description="pc, uniform")
    stellar_mass: Range = Field((0.5, 2.0), description="solar masses, log-uniform")
    inclination: Range = Field((5.0, 70.0), description="degrees from face-on, uniform in the cosine")
    centre: float = Field(0.03, ge=0, description="arcsec, scatter of the star about the image's centre, per axis")
    radius: Range = Field((60.0, 140.0), description="au, characteristic radius of the dust, log-uniform")
    dust_mass: Range = Field((20.0, 200.0), description="Earth masses, log-uniform (Ansdell et al. 2016, ApJ 828, 46)")
    density_slope: Range = Field((0.5, 1.1), description="gamma, uniform (Andrews et al. 2009, ApJ 700, 1502)")
    temperature: Range = Field((16.0, 28.0), description="K of the dust at 100 au, uniform; falls as r^-0.5")
    aspect_ratio: Range = Field((0.06, 0.10), description="H/r at 100 au, uniform; grows as r^0.25")
    gas_radius: Range = Field((1.5, 2.2), description="of the gas, in radii of the dust, uniform")
    gas_temperature: Range = Field((1.8, 2.6), description="of the CO surface, in temperatures of the dust, uniform")
    gas_height: Range = Field((0.1, 0.35), description="z/r of the CO surface (Law et al. 2021, ApJS 257, 4), uniform")
    line_width: Range = Field((0.12, 0.25), description="km/s, sigma of the line with the channel's width, uniform")
    rings: float = Field(2.0, ge=0, description="gaps that no planet made, Poisson mean, in both classes")
    ring_depth: Range = Field((0.2, 0.9), description="fraction of the dust that is missing, uniform")
    ring_width: Range = Field((0.04, 0.12), description="in the gap's radius, Gaussian sigma, uniform")
    spirals: float = Field(0.25, ge=0, le=1, description="fraction with two grand spiral arms, in both classes")
    spiral_contrast: Range = Field((0.15, 0.5), description="relative amplitude, uniform")
    spiral_pitch: Range = Field((10.0, 25.0), description="degrees, uniform")
    planet_mass: Range = Field((0.3, 4.0), description="Jupiter masses, log-uniform")
    planet_radius: Range = Field((0.4, 1.2), description="in radii of the dust, uniform")
    viscosity: Range = Field((3e-4, 5e-3), description="alpha, log-uniform")

    @model_validator(mode="after")
    def _possible(self) -> Discs:
        for name, value in self:
            if isinstance(value, tuple) and not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        if self.inclination[1] >= 85:
            raise ValueError("inclination must stay below 85 degrees: discs are drawn as surfaces")
        return self


class Telescope(Config):
    """An interferometer: beam and noise of each image. As in DSHARP (Andrews et al. 2018, ApJ 869, L41)."""

    n_pixels: int = Field(256, ge=16, description="pixels on a side")
    pixel_scale: float = Field(0.012, gt=0, description="arcsec per pixel")
    frequency: float = Field(230.5, gt=0, description="GHz, of the continuum and of CO 2-1")
    beam: Range = Field((0.045, 0.09), description="arcsec, FWHM of the major axis, uniform; at least 2 pixels")
    beam_ratio: Range = Field((0.65, 1.0), description="minor over major axis, uniform")
    noise: Range = Field((0.01, 0.03), description="mJy/beam rms of the continuum, log-uniform")
    channel_noise: Range = Field((0.4, 1.2), description="mJy/beam rms of one channel, log-uniform")
    channels: tuple[float, ...] = Field((-1.0, 0.0, 1.0), description="km/s from the star's velocity; empty: no CO")

    @model_validator(mode="after")
    def _sampled(self) -> Telescope:
        for name in ("beam", "beam_ratio", "noise", "channel_noise"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        if self.beam[0] * self.beam_ratio[0] < 2 * self.pixel_scale:
            raise ValueError("the narrowest beam has less than two pixels: make pixel_scale smaller")
        return self
