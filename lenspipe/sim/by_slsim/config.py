"""Options of the lenses that slsim draws."""

from __future__ import annotations

from pydantic import Field, model_validator

from lenspipe.sim.physical import Cuts, Pairs
from lenspipe.sim.scene import Range


class SlsimCuts(Cuts):
    """Pairs beyond these, or with fewer than two images, are not kept."""

    image_separation: Range = Field(
        (1.0, 8.0), description="arcsec, the widest between two images of the source's middle"
    )


class Slsim(Pairs):
    """A piece of sky, and which pairs of its galaxies are kept."""

    z_source: Range = Field((0.2, 4.0), description="between these, at most 4: beyond, no spectrum reaches the u band")
    lens_area: float = Field(10.0, gt=0, description="square degrees over which red galaxies are drawn")
    source_area: float = Field(0.1, gt=0, description="square degrees over which blue galaxies are drawn")
    cuts: SlsimCuts = SlsimCuts()

    @model_validator(mode="after")
    def _within_the_spectra(self) -> Slsim:
        if self.z_source[1] > 4:
            raise ValueError(f"z_source must end at 4 or before (got {self.z_source[1]:g})")
        return self
