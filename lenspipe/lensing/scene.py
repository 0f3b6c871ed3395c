"""A scene: which profiles make up a lens system, and which column of a parameter vector feeds which of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lenspipe.lensing import light, mass
from lenspipe.lensing.params import LIGHT, MASS, UNITS


@dataclass(frozen=True)
class Component:
    """One profile: its `role` (``lens``, ``source`` or ``lens_light``) and the columns of its parameters."""

    role: str
    profile: str
    columns: tuple[int, ...]

    def parameters(self, vectors: Tensor) -> list[Tensor]:
        """Its parameters out of (K, P) `vectors`, each (K, 1, 1)."""
        return [vectors[:, i, None, None] for i in self.columns]


@dataclass(frozen=True)
class Scene:
    """P parameters with names and units, and the components they feed.

    The main deflector's names are bare (``theta_E``); others carry their role and, past the first of that
    role, a number: ``source_R_sersic``, ``lens_light1_e1``, ``lens2_theta_E``.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    lens: tuple[Component, ...]
    source: tuple[Component, ...]
    lens_light: tuple[Component, ...]
    sky: bool

    @property
    def amplitudes(self) -> tuple[str, ...]:
        """Names of the linear amplitudes of one band, in the order of `light_layers`, then the sky."""
        names = [*_numbered("source", len(self.source)), *_numbered("lens_light", len(self.lens_light))]
        return (*names, "sky") if self.sky else tuple(names)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def ray_shoot(self, vectors: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Source-plane position beta = theta - alpha(theta), each (K, H, W) for (K, P) `vectors`."""
        beta_x, beta_y = x, y
        for component in self.lens:
            alpha = mass.sie if component.profile == "SIE" else mass.shear
            alpha_x, alpha_y = alpha(x, y, *component.parameters(vectors))
            beta_x, beta_y = beta_x - alpha_x, beta_y - alpha_y
        return beta_x, beta_y

    def light_layers(self, vectors: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Unit-amplitude, unblurred surface brightness (K, L, H, W): lensed sources, then lens lights."""
        beta_x, beta_y = self.ray_shoot(vectors, x, y)
        layers = [light.sersic_ellipse(beta_x, beta_y, *c.parameters(vectors)) for c in self.source]
        layers += [light.sersic_ellipse(x, y, *c.parameters(vectors)) for c in self.lens_light]
        return torch.stack(layers, dim=1)

    def log_flux(self, vectors: Tensor) -> Tensor:
        """(K,) sum over the light profiles of the log of their flux to infinity at unit amplitude, unlensed."""
        shapes = torch.tensor([c.columns[:2] for c in (*self.source, *self.lens_light)]).T
        return light.sersic_flux(*(vectors[:, columns] for columns in shapes)).log().sum(1)


def build(
    lens: Sequence[str],
    source: Sequence[str],
    lens_light: Sequence[str],
    sky: bool = False,
    joint_centre: bool = True,
) -> Scene:
    """A scene of the named profiles.

    Parameters
    ----------
    lens : of `lenspipe.lensing.params.MASS`, the main deflector first.
    source, lens_light : of `lenspipe.lensing.params.LIGHT`.
    sky : one constant level per band.
    joint_centre : the first lens light shares the main deflector's centre.
    """
    names: list[str] = []

    def component(role: str, profile: str, prefix: str, table: Mapping[str, tuple[str, ...]]) -> Component:
        columns = []
        for parameter in table[profile]:
            if role == "lens_light" and prefix == "lens_light_" and joint_centre and parameter.startswith("center_"):
                columns.append(names.index(parameter))
                continue
            names.append(prefix + parameter)
            columns.append(len(names) - 1)
        return Component(role, profile, tuple(columns))

    def prefixes(role: str, profiles: Sequence[str]) -> list[str]:
        return [f"{name}_" for name in _numbered(role, len(profiles))]

    # A shear has no other parameter names than its own, so the first one stays bare too.
    bare = {0, *(i for i, p in enumerate(lens) if p == "SHEAR" and "SHEAR" not in lens[:i])}
    lens_prefixes = ["" if i in bare else f"lens{i}_" for i in range(len(lens))]
    deflectors = tuple(component("lens", p, prefix, MASS) for p, prefix in zip(lens, lens_prefixes))
    sources = tuple(component("source", p, prefix, LIGHT) for p, prefix in zip(source, prefixes("source", source)))
    lights = tuple(
        component("lens_light", p, prefix, LIGHT) for p, prefix in zip(lens_light, prefixes("lens_light", lens_light))
    )
    units = tuple(next(u for n, u in UNITS.items() if name.endswith(n)) for name in names)
    return Scene(tuple(names), units, deflectors, sources, lights, sky)


def _numbered(role: str, count: int) -> list[str]:
    return [role if i == 0 else f"{role}{i}" for i in range(count)]
