"""What a fit can be told: the lens model, its priors, the likelihood, the search, the sampler, the verdict.

Options left null are chosen by how sharp the image is (`FitConfig.resolve`): from space, real galaxies are no single
Sersic profile, and a fit that assumes one is wrong without showing it.
"""

from __future__ import annotations

import difflib
from typing import Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator

from lenspipe.config import Config
from lenspipe.infer.priors import Prior
from lenspipe.lensing.params import FIELD

SHARP = 0.3
"""arcsec; images with a narrower PSF are sharp: from space, or with adaptive optics."""
_MASS_LIGHT = 0.07
Mass = Literal["SIE", "NIE", "SIS", "EPL", "SHEAR", "CONVERGENCE"]
Light = Literal["SERSIC_ELLIPSE", "SERSIC", "GAUSSIAN_ELLIPSE"]
LensLight = Literal[Light, "MULTI_GAUSSIAN_ELLIPSE"]
SET = "MULTI_GAUSSIAN_ELLIPSE"
"""A set of concentric Gaussians of one shape, which is held."""


def _known(role: str, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """`names` if lenspipe or lenstronomy has them all."""
    own = get_args({"lens": Mass, "source": Light, "lens_light": LensLight}[role])
    for name in names or ():
        if name not in own and name not in (theirs := _theirs(role)):
            close = difflib.get_close_matches(name, [*own, *theirs], n=1, cutoff=0.5)
            known = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(own)}, and all of lenstronomy's"
            raise ValueError(f"no profile {name!r}; {known}")
    return names


def _theirs(role: str) -> list[str]:
    # Not before it is needed: lenstronomy takes a second to import.
    if role == "lens":
        from lenstronomy.LensModel.profile_list_base import _SUPPORTED_MODELS as found
    else:
        from lenstronomy.LightModel.light_model_base import _MODELS_SUPPORTED as found
    return list(found)


class SceneConfig(Config):
    """The profiles, by lenstronomy's names."""

    lens: tuple[str, ...] = Field(default=("SIE", "SHEAR"), min_length=1)
    source: tuple[str, ...] = Field(default=("SERSIC_ELLIPSE",), min_length=1)
    lens_light: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="null: two sets of Gaussians, their shape held, if sharp, else one Sersic",
    )
    sky: bool | None = Field(default=None, description="fit a constant sky level per band; null: if sharp")
    joint_centre: bool = Field(default=True, description="first lens light and main deflector share a centre")
    free_bands: tuple[Literal["source", "lens_light"], ...] = Field(
        default=(), description="whose light has a shape of its own in each band; centres are shared"
    )

    @property
    def foreign(self) -> tuple[str, ...]:
        """Profiles that only lenstronomy has."""
        roles = ((self.lens, Mass), (self.source, Light), (self.lens_light or (), LensLight))
        return tuple(p for profiles, own in roles for p in profiles if p not in get_args(own))

    @field_validator("lens", "source", "lens_light")
    @classmethod
    def _some_library_has_it(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        return _known(str(info.field_name), value)

    @field_validator("lens")
    @classmethod
    def _main_deflector_first(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value[0] in FIELD:
            raise ValueError("the main deflector must come first: SIE, NIE, SIS or EPL")
        return value

    @field_validator("lens_light")
    @classmethod
    def _of_one_kind(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value and SET in value and len(set(value)) > 1:
            raise ValueError("sets of Gaussians, whose shape is held, do not go with profiles that are sampled")
        return value

    @property
    def light_held(self) -> bool:
        """The lens light's shape is fitted once and then held."""
        return SET in (self.lens_light or ())


class DataConfig(Config):
    """Which pixels count, and how."""

    window: float | None = Field(
        default=None, gt=0, description="side of the fitted square, arcsec; None = 6 arcsec or 25 FWHM of the PSF"
    )
    radius: float | None = Field(
        default=None,
        gt=0,
        description="pixels farther from the lens are masked, arcsec; null: half the window if sharp",
    )
    core: float | None = Field(
        default=None, ge=0, description="pixels nearer to the lens are masked, arcsec; null: 0.15 if sharp, else 0"
    )
    noise_probability: float = Field(default=0.5, gt=0, le=1, description="other objects are masked above this")
    grow: int = Field(default=1, ge=0, description="pixels by which masks of other objects grow")
    light_error: float | None = Field(
        default=None,
        ge=0,
        description="share of the lens light added to sigma in quadrature, as its model's error; null: 0.03 if sharp",
    )
    supersampling: int = Field(default=1, ge=1, le=8, description="subpixels per pixel and axis")
    subpixel_error: float | None = Field(
        default=0.1,
        gt=0,
        description="sigma; pixels whose mean over their subpixels errs more get up to 32 x 32; null: none do",
    )
    marginalise: bool = Field(default=True, description="integrate over the amplitudes, flat in flux; else maximise")
    precision: Literal["float32", "float64"] = Field(default="float32", description="of the sampling; optima are f64")


class SearchConfig(Config):
    """How the optimum is looked for."""

    starts: int = Field(default=36, ge=3, description="starts that are optimised together")
    estimated: int = Field(
        default=12, ge=0, description="further starts, drawn from what a network estimates, where one has; 0: none"
    )
    finalists: int = Field(default=10, ge=1, description="distinct optima that are polished")
    radii: int = Field(default=24, ge=3, description="Einstein radii of the coarse grid")
    theta_E_min: float = Field(default=0.3, gt=0, description="smallest radius of the grid, arcsec")
    theta_E_max: float | None = Field(default=None, gt=0, description="largest, arcsec; None = 0.7 of the half width")


class SamplerConfig(Config):
    """When the sampler starts to keep steps, and when it may stop."""

    ensembles: int = Field(default=4, ge=4, description="independent ensembles; R-hat compares them")
    walkers: int = Field(default=40, ge=4, description="per ensemble; raised to twice the number of parameters")
    burn: int = Field(default=100, ge=0, description="steps thrown away, at least")
    min_steps: int = Field(default=200, ge=10, description="kept steps before the sampler may stop")
    max_steps: int = Field(default=4000, ge=10, description="kept steps after which it gives up")
    max_steps_suspect: int = Field(
        default=400, ge=10, description="the same where the optimum of the search is suspect or failed already"
    )
    check_every: int = Field(default=100, ge=1, description="steps between looks at the diagnostics")
    rhat: float = Field(default=1.01, gt=1, description="largest split R-hat over the ensembles")
    taus: float = Field(default=10, gt=0, description="kept steps in autocorrelation times, at least")


class RecipeConfig(Config):
    """Lengths of a particle swarm, then of one emcee ensemble: of ``preset: reference`` and ``engine: lenstronomy``."""

    particles: int = Field(default=500, ge=2, description="of the swarm")
    iterations: int = Field(default=500, ge=1, description="of the swarm, at most")
    walkers: int = Field(default=150, ge=4, description="raised to twice the number of parameters")
    burn: int = Field(default=400, ge=0, description="steps thrown away")
    steps: int = Field(default=1000, ge=10, description="steps kept")


class VerdictConfig(Config):
    """When a fit is not ``good``. Reduced chi-square is no criterion: it does not tell right from wrong."""

    magnification: float | None = Field(default=None, ge=1, description="suspect below; null: 3.6 if sharp, else 2.5")
    source_radius: float = Field(default=0.7, gt=0, description="suspect where source_R_sersic / theta_E is above")
    start_spread: float = Field(default=0.1, gt=0, description="suspect where near-best optima differ by this fraction")
    near_best: float = Field(
        default=5.0, gt=0, description="optima within this of the best log posterior are near-best"
    )
    mass_light: float = Field(default=0.3, gt=0, description="suspect where |e_mass - e_light| is above")
    arc_signal: float = Field(default=20.0, ge=0, description="suspect where the arc's total S/N is below")
    least_signal: float = Field(default=10.0, ge=0, description="failed where the arc's total S/N is below")
    other_lights: bool | None = Field(
        default=None, description="repeat the search with other models of a held lens light; null: if sharp"
    )
    light_spread: float = Field(
        default=0.1, gt=0, description="suspect where models of the lens light differ by this fraction in theta_E"
    )
    mask_overlap: float = Field(default=0.2, ge=0, le=1, description="suspect where less of the masked arc is modelled")


class FitConfig(Config):
    """Everything `lenspipe.infer.fit.fit` can be told."""

    sharp: bool | None = Field(
        default=None,
        description="choose what is null for an image from space; null: if the PSF's FWHM is below 0.3 arcsec",
    )
    model: SceneConfig = SceneConfig()
    priors: dict[str, Prior] = Field(default_factory=dict, description="parameter name -> prior, over the defaults")
    mass_follows_light: float | None = Field(
        default=None,
        gt=0,
        description="prior sigma of e_mass - e_light, each component; null: 0.07 if sharp, else none",
    )
    centre_follows_light: float = Field(
        default=0.01,
        gt=0,
        description="with a held light: prior sigma of the deflector's centre about the light's, arcsec",
    )
    data: DataConfig = DataConfig()
    engine: Literal["auto", "kernel", "torch", "lenstronomy"] = Field(
        default="auto", description="auto: the compiled kernel, else torch; lenstronomy where a profile is only there"
    )
    fixed: dict[str, float | tuple[float, ...]] = Field(
        default_factory=dict, description="parameter name -> value at which engine lenstronomy holds it"
    )
    preset: Literal["default", "reference"] = Field(
        default="default", description="reference: particle swarm and stretch moves, to compare like with like"
    )
    recipe: RecipeConfig = RecipeConfig()
    search: SearchConfig = SearchConfig()
    sampler: SamplerConfig = SamplerConfig()
    verdict: VerdictConfig = VerdictConfig()
    cosmology: Literal["Planck18", "FlatLambdaCDM70"] = "Planck18"

    def resolve(self, fwhm: float, window: float) -> Self:
        """This config with every null chosen, for a PSF of `fwhm` and a default window of `window` arcsec."""
        sharp = fwhm < SHARP if self.sharp is None else self.sharp
        side = self.data.window or window
        light = (SET, SET) if sharp else ("SERSIC_ELLIPSE",)

        def chosen(part: Config, values: dict[str, object]) -> Config:
            return part.model_copy(update={k: v for k, v in values.items() if getattr(part, k) is None})

        data = {"window": side, "radius": side / 2 - fwhm if sharp else None, "core": 0.15 if sharp else 0.0}
        return self.model_copy(
            update={
                "sharp": sharp,
                "model": chosen(self.model, {"lens_light": light, "sky": sharp}),
                "data": chosen(self.data, {**data, "light_error": 0.03 if sharp else 0.0}),
                "verdict": chosen(self.verdict, {"other_lights": sharp, "magnification": 3.6 if sharp else 2.5}),
                "mass_follows_light": self.mass_follows_light or (_MASS_LIGHT if sharp else None),
            }
        )
