"""Profiles that lenstronomy has and lenspipe has not: which parameters they bring, and where each belongs.

Legend: K vectors, P parameters, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.errors import LenspipeError
from lenspipe.infer.priors import Prior
from lenspipe.lensing.params import FIELD, LIGHT, MASS, UNITS

Floats = NDArray[np.float64]
Fixed = float | tuple[float, ...]

_SHARED = frozenset(("theta_E", "e1", "e2", "center_x", "center_y", "gamma1", "gamma2", "R_sersic", "n_sersic"))
"""Names that mean the same in every profile of lenstronomy, so that their default priors hold."""
_ARCSEC = frozenset(("Rs", "Rb", "beta", "sigma", "s_scale", "core", "r_core", "r_trunc", "Ra", "r_s"))
_ROLES = ("lens", "source", "lens_light")


@dataclass(frozen=True)
class Foreign:
    """A scene of lenstronomy's profiles, its P parameters named as `lenspipe.lensing.scene.Scene` names them.

    Attributes
    ----------
    profiles : role -> profiles; a sky is the last lens light, ``UNIFORM``.
    slots : role, number of the profile and lenstronomy's name of each parameter.
    fixed : role -> for each profile what is held.
    joint : lens light 0 takes its centre from lens 0.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    profiles: dict[str, tuple[str, ...]]
    slots: tuple[tuple[str, int, str], ...]
    fixed: dict[str, tuple[dict[str, Any], ...]]
    joint: bool

    def index(self, name: str) -> int:
        return self.names.index(name)

    @property
    def sky(self) -> bool:
        return self.profiles["lens_light"][-1:] == ("UNIFORM",)

    def lists(self, values: Sequence[float] | Floats) -> dict[str, list[dict[str, Any]]]:
        """Role -> lenstronomy's keyword arguments: (P,) `values` where they belong, nothing else."""
        found: dict[str, list[dict[str, Any]]] = {role: [{} for _ in self.profiles[role]] for role in _ROLES}
        for (role, number, name), value in zip(self.slots, values):
            found[role][number][name] = float(value)
        return found

    def kwargs(self, values: Sequence[float] | Floats) -> dict[str, list[dict[str, Any]]]:
        """``kwargs_lens, kwargs_source, kwargs_lens_light`` of a (P,) vector, what is held and the centre included."""
        found = self.lists(values)
        if self.joint:
            found["lens_light"][0] |= {c: found["lens"][0][c] for c in ("center_x", "center_y")}
        return {f"kwargs_{role}": [k | f for k, f in zip(found[role], self.fixed[role])] for role in _ROLES}

    def vector(self, kwargs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Floats:
        """(P,) out of ``kwargs_lens, kwargs_source, kwargs_lens_light``."""
        return np.array([kwargs[f"kwargs_{role}"][number][name] for role, number, name in self.slots], dtype=float)

    def columns(self, theirs: Sequence[str]) -> list[int]:
        """Of each parameter, its place in lenstronomy's own list of sampled names."""
        suffix = {"lens": "lens", "source": "source_light", "lens_light": "lens_light"}
        names = [f"{name}_{suffix[role]}{number}" for role, number, name in self.slots]
        if self.joint:
            # Of two centres that are one, lenstronomy samples the light's.
            moved = {f"{c}_lens0": f"{c}_lens_light0" for c in ("center_x", "center_y")}
            names = [moved.get(name, name) for name in names]
        return [list(theirs).index(name) for name in names]

    def ray_shoot(self, vectors: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Source-plane position, each (K, H, W) for (K, P) `vectors`."""
        lens = self.lens_model()
        x, y = torch.broadcast_tensors(x, y)
        found = []
        for vector in vectors:
            rays = lens.ray_shooting(x.numpy().ravel(), y.numpy().ravel(), self.kwargs(vector.numpy())["kwargs_lens"])
            found.append(torch.as_tensor(np.stack(rays)).reshape(2, *x.shape))
        both = torch.stack(found)
        return both[:, 0], both[:, 1]

    def lens_model(self, only_main: bool = False) -> Any:
        """lenstronomy's ``LensModel`` of all deflectors, or of the main one."""
        from lenstronomy.LensModel.lens_model import LensModel

        profiles = self.profiles["lens"]
        return LensModel(list(profiles[:1] if only_main else profiles))


def build(
    lens: Sequence[str],
    source: Sequence[str],
    lens_light: Sequence[str],
    sky: bool,
    joint_centre: bool,
    held: Mapping[str, Fixed],
    declared: Mapping[str, Prior],
) -> Foreign:
    """The scene; parameters in `held` are not sampled.

    Raises
    ------
    LenspipeError : where a profile cannot be had, `held` names no parameter of it, or a parameter that is not held has
        neither a declared prior nor a name whose default holds for every profile.
    """
    profiles = {
        "lens": tuple(lens),
        "source": tuple(source),
        "lens_light": (*lens_light, *(["UNIFORM"] if sky else [])),
    }
    names, slots, known, missing = [], [], [], []
    fixed: dict[str, tuple[dict[str, Any], ...]] = {}
    parameters = {role: [_parameters(role, profile) for profile in profiles[role]] for role in _ROLES}
    joint = joint_centre and all(
        {"center_x", "center_y"} <= set((parameters[r] or [()])[0]) for r in ("lens", "lens_light")
    )
    bare = {0, *(i for i, p in enumerate(lens) if p in FIELD and p not in lens[:i])}
    for role in _ROLES:
        holding: list[dict[str, Any]] = []
        for number, (profile, own) in enumerate(zip(profiles[role], parameters[role])):
            prefix = "" if role == "lens" and number in bare else f"{role}{number or ''}_"
            here: dict[str, Any] = {}
            for parameter in own:
                name = prefix + parameter
                if joint and (role, number) == ("lens_light", 0) and parameter in ("center_x", "center_y"):
                    continue
                known.append(name)
                if name in held:
                    value = held[name]
                    here[parameter] = list(value) if isinstance(value, tuple) else _whole(value)
                elif parameter in ("ra_0", "dec_0") and name not in declared:
                    here[parameter] = 0.0
                else:
                    if name not in declared and not _has_default(role, profile, parameter):
                        missing.append(name)
                    names.append(name)
                    slots.append((role, number, parameter))
            holding.append(here)
        fixed[role] = tuple(holding)
    wrong = [name for name in held if name not in known]
    if wrong:
        raise LenspipeError(f"fixed.{wrong[0]}: no such parameter; there are: {', '.join(known)}.")
    if missing:
        raise LenspipeError(f"model.priors: {', '.join(missing)} must be declared with bounds (or held in fixed).")
    units = tuple(UNITS.get(p, "arcsec" if p in _ARCSEC else "") for _, _, p in slots)
    return Foreign(tuple(names), units, profiles, tuple(slots), fixed, joint)


def _has_default(role: str, profile: str, parameter: str) -> bool:
    own = (MASS if role == "lens" else LIGHT).get(profile, ())
    return parameter in _SHARED or parameter in own


def _parameters(role: str, profile: str) -> tuple[str, ...]:
    """lenstronomy's names, without the linear amplitude of a light."""
    from lenstronomy.LensModel.profile_list_base import lens_class
    from lenstronomy.LightModel.light_model import LightModel

    try:
        own = lens_class(profile).param_names if role == "lens" else LightModel([profile]).param_name_list[0]
    except Exception as error:  # each profile fails in its own way
        raise LenspipeError(f"model.{role}: lenstronomy cannot make {profile} here ({error}).") from None
    return tuple(name for name in own if role == "lens" or name != "amp")


def _whole(value: float) -> float | int:
    """Orders such as n_max must be integers."""
    return int(value) if float(value).is_integer() else float(value)
