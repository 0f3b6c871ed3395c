"""Every number of the lenses with supernovae."""

from __future__ import annotations

from pydantic import Field

from lenspipe.config import Config
from lenspipe.sim.galaxy_lens import GalaxyLenses
from lenspipe.sim.learners import Range
from lenspipe.sim.population import BLUE, RED, Colours

CLASSES = ("no_lens", "lens", "lensed_sn_ia", "lensed_sn_cc")


class Monitoring(Config):
    """When and how the survey looks again and again."""

    steps: int = Field(14, ge=1, description="T, nights of the light curve")
    cadence: float = Field(7.0, gt=0, description="days from one step to the next; 7 in DES (Kessler et al. 2015)")
    jitter: float = Field(1.5, ge=0, description="days, uniform to either side: weather and moon")
    exposures: dict[str, int] = Field({}, description="exposures of a step by band; 1 where a band is not named")
    seeing_scatter: float = Field(0.15, ge=0, description="ln scatter of the FWHM from step to step")
    sky_scatter: float = Field(0.10, ge=0, description="ln scatter of the sky's rms from step to step")
    aperture: float = Field(3.0, gt=0, description="arcsec, radius of the round aperture, about the cutout's centre")


class Systems(GalaxyLenses):
    """Lenses, galaxies that lens nothing, and supernovae. Magnitudes are those of DECam's r."""

    z_lens: Range = Field((0.25, 0.7), description="uniform")
    z_source: Range = Field((0.5, 1.5), description="uniform")
    sigma_v: Range = Field((210.0, 330.0), description="km/s, uniform; theta_E is that of an isothermal lens")
    theta_E: Range = Field((1.0, 2.5), description="arcsec, cut: lenses outside are drawn again")
    source_magnitude: Range = Field((21.5, 24.0), description="mag before lensing, uniform")
    source_radius: Range = Field((0.2, 0.6), description="arcsec, half light, uniform")
    lens_magnitude: tuple[float, float] = Field(
        (20.0, 0.4), description="mag of a lens of 250 km/s at redshift 0.4, and scatter; L grows as sigma_v^4"
    )
    lens_radius: tuple[float, float] = Field((0.6, 0.25), description="in theta_E, half light, median and ln scatter")
    min_arc_snr: float = Field(40.0, description="cut: S/N of the arcs of the whole survey, all bands and pixels")
    lens_colours: Colours = RED
    source_colours: Colours = BLUE
    companions: float = Field(0.6, ge=0, le=1, description="no_lens: fraction that has a blue galaxy beside it")
    companion_distance: Range = Field((0.8, 3.0), description="arcsec, uniform")
    companion_magnitude: Range = Field((20.0, 22.5), description="mag, uniform")
    unlensed_supernovae: float = Field(
        0.3, ge=0, le=1, description="no_lens: fraction with a supernova, so that a light curve alone is no lens"
    )
    sn_offset: float = Field(0.6, gt=0, description="scatter of a supernova about its host, half-light radii, per axis")
    sn_peak: Range = Field((-15.0, 70.0), description="days from the first step to the first image's peak, uniform")
    min_images: int = Field(2, ge=1, description="cut: images of a lensed supernova")
    min_detections: int = Field(4, ge=0, description="cut: points of the light curves with supernova S/N above 5")
