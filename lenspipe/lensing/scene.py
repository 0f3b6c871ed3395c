"""A scene: which profiles make up a lens system, and which column of a parameter vector feeds which of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lenspipe.lensing.light import BRIGHTNESS, unit_flux
from lenspipe.lensing.mass import DEFLECTION
from lenspipe.lensing.params import FIELD, LIGHT, MASS, UNITS


@dataclass(frozen=True)
class Component:
    """One profile: its `role` (``lens``, ``source`` or ``lens_light``) and the columns of its parameters.

    Attributes
    ----------
    columns : of its parameters, in the profile's order; where the bands differ, those of the first band.
    per_band : of each of B bands, where its shape is free in each; else empty.
    """

    role: str
    profile: str
    columns: tuple[int, ...]
    per_band: tuple[tuple[int, ...], ...] = ()

    def in_band(self, band: int) -> tuple[int, ...]:
        """The columns that the band number `band` uses."""
        return self.per_band[band] if self.per_band else self.columns

    def column(self, parameter: str) -> int:
        """The (first band's) column of `parameter`, by the profile's own name for it."""
        return self.columns[(MASS | LIGHT)[self.profile].index(parameter)]

    def parameters(self, vectors: Tensor) -> list[Tensor]:
        """Its parameters out of (K, P) `vectors`, each (K, 1, 1); (K, B, 1, 1) where they are free in each band."""
        if self.per_band:
            # No index that would have to travel to a device first.
            each = [torch.stack([vectors[:, i] for i in columns], 1) for columns in zip(*self.per_band)]
            return [parameter[..., None, None] for parameter in each]
        return [vectors[:, i, None, None] for i in self.columns]


@dataclass(frozen=True)
class Scene:
    """P parameters with names and units, and the components they feed.

    The main deflector's names are bare (``theta_E``); others carry their role and, past the first of that
    role, a number: ``source_R_sersic``, ``lens_light1_e1``, ``lens2_theta_E``. Shapes that are free in each band
    end with the band: ``lens_light_R_sersic_g``.

    Attributes
    ----------
    bands : names of the B bands, where some component's shape is free in each; else empty.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    lens: tuple[Component, ...]
    source: tuple[Component, ...]
    lens_light: tuple[Component, ...]
    sky: bool
    bands: tuple[str, ...] = ()

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
            alpha_x, alpha_y = DEFLECTION[component.profile](x, y, *component.parameters(vectors))
            beta_x, beta_y = beta_x - alpha_x, beta_y - alpha_y
        return beta_x, beta_y

    def light_layers(self, vectors: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Unit-amplitude, unblurred surface brightness: lensed sources, then lens lights.

        (K, L, H, W); (K, L, B, H, W) where `bands` says that shapes are free in each band.
        """
        beta = self.ray_shoot(vectors, x, y)
        layers = [self._layer(component, vectors, *beta) for component in self.source]
        layers += [self._layer(component, vectors, x, y) for component in self.lens_light]
        return torch.stack(layers, dim=1)

    def arcs(self, vectors: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The lensed sources alone, as in `light_layers`."""
        beta = self.ray_shoot(vectors, x, y)
        return torch.stack([self._layer(component, vectors, *beta) for component in self.source], dim=1)

    def unit_fluxes(self, vectors: Tensor, bands: int) -> Tensor:
        """(K, B, L) flux to infinity of each light profile at unit amplitude, unlensed."""
        fluxes = []
        for component in (*self.source, *self.lens_light):
            found = unit_flux(component.profile, component.parameters(vectors))[..., 0, 0]
            fluxes.append(found if component.per_band else found[:, None].expand(-1, bands))
        return torch.stack(fluxes, dim=-1)

    def _layer(self, component: Component, vectors: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(K, H, W), or (K, B, H, W) in a scene with `bands`."""
        if component.per_band:
            x, y = x.unsqueeze(-3), y.unsqueeze(-3)
        layer = BRIGHTNESS[component.profile](x, y, *component.parameters(vectors))
        if self.bands and not component.per_band:
            layer = layer.unsqueeze(1).expand(-1, len(self.bands), -1, -1)
        return layer


def build(
    lens: Sequence[str],
    source: Sequence[str],
    lens_light: Sequence[str],
    sky: bool = False,
    joint_centre: bool = True,
    free: Sequence[str] = (),
    bands: Sequence[str] = (),
) -> Scene:
    """A scene of the named profiles.

    Parameters
    ----------
    lens : of `lenspipe.lensing.params.MASS`, the main deflector first.
    source, lens_light : of `lenspipe.lensing.params.LIGHT`.
    sky : one constant level per band.
    joint_centre : the first lens light shares the main deflector's centre.
    free : roles (``source``, ``lens_light``) whose shapes, all but the centre, have one copy for each of `bands`.
    """
    names: list[str] = []
    units: list[str] = []
    bands = tuple(bands) if len(bands) > 1 else ()

    def column(name: str, parameter: str) -> int:
        names.append(name)
        units.append(UNITS[parameter])
        return len(names) - 1

    def component(role: str, profile: str, prefix: str, table: Mapping[str, tuple[str, ...]]) -> Component:
        copies = bands if role in free else ()
        columns: list[tuple[int, ...]] = []  # of each parameter, one or one per band
        for parameter in table[profile]:
            central = parameter.startswith("center_")
            if prefix == "lens_light_" and joint_centre and central:
                columns.append((names.index(parameter),))
            elif copies and not central:
                columns.append(tuple(column(f"{prefix}{parameter}_{band}", parameter) for band in copies))
            else:
                columns.append((column(prefix + parameter, parameter),))
        per_band = tuple(tuple(c[b if len(c) > 1 else 0] for c in columns) for b in range(len(copies)))
        return Component(role, profile, tuple(c[0] for c in columns), per_band)

    def prefixes(role: str, profiles: Sequence[str]) -> list[str]:
        return [f"{name}_" for name in _numbered(role, len(profiles))]

    # Shear and convergence have no other parameter names than their own, so the first of each stays bare too.
    bare = {0, *(i for i, p in enumerate(lens) if p in FIELD and p not in lens[:i])}
    lens_prefixes = ["" if i in bare else f"lens{i}_" for i in range(len(lens))]
    deflectors = tuple(component("lens", p, prefix, MASS) for p, prefix in zip(lens, lens_prefixes))
    sources = tuple(component("source", p, prefix, LIGHT) for p, prefix in zip(source, prefixes("source", source)))
    lights = tuple(
        component("lens_light", p, prefix, LIGHT) for p, prefix in zip(lens_light, prefixes("lens_light", lens_light))
    )
    varied = bands if any(c.per_band for c in (*sources, *lights)) else ()
    return Scene(tuple(names), tuple(units), deflectors, sources, lights, sky, varied)


def _numbered(role: str, count: int) -> list[str]:
    return [role if i == 0 else f"{role}{i}" for i in range(count)]
