"""Draw the subhaloes of one lens by pyHalo (Gilman et al. 2020, MNRAS 491, 6077), which need not be installed."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from lenspipe.errors import LenspipeError
from lenspipe.sim.distances import Cosmology, Distances
from lenspipe.sim.drawing import numpy_seeded
from lenspipe.sim.learners import log_uniform
from lenspipe.sim.substructure.config import Subhaloes
from lenspipe.sim.substructure.haloes import Haloes


def draw_by_pyhalo(
    rng: Generator, options: Subhaloes, distances: Distances, cosmology: Cosmology, radius: float
) -> Haloes:
    """Subhaloes of pyHalo's preset ``CDM`` in a disc of `radius` arcsec; no haloes along the line of sight.

    The mass function is that of `options`. Its scaling with the host, the concentrations (Diemer & Joyce 2019, ApJ 871,
    168) and the tidal truncation are pyHalo's.

    Raises
    ------
    LenspipeError : pyHalo is not installed.
    """
    try:
        from pyHalo.defaults import cosmo_default
        from pyHalo.PresetModels.cdm import CDM
    except ImportError as error:
        raise LenspipeError(
            f"substructure: subhaloes.population pyhalo needs pyHalo ({error}): pip install 'lenspipe[pyhalo]'."
        ) from None
    sigma_sub = log_uniform(rng, options.sigma_sub)
    log10_host = float(rng.normal(*options.log10_host_mass))
    low, high = np.log10(options.mass)
    with numpy_seeded(rng):
        realization = CDM(
            distances.z_lens,
            distances.z_source,
            sigma_sub=sigma_sub,
            shmf_log_slope=options.slope,
            log_mlow=low,
            log_mhigh=high,
            log_m_host=log10_host,
            cone_opening_angle_arcsec=2 * radius,
            LOS_normalization=0.0,
            two_halo_contribution=False,
            kwargs_cosmo={**cosmo_default.cosmo_param_dictionary, "H0": cosmology.H0, "Om0": cosmology.Om0},
            # Its defaults are dicts that it writes to.
            kwargs_concentration_model_subhalos={},
            kwargs_concentration_model_fieldhalos={},
            kwargs_truncation_model_subhalos={},
            kwargs_truncation_model_fieldhalos={},
        )
        parameters = [halo.lenstronomy_params[0][0] for halo in realization.halos]
    names = {"center_x": "x", "center_y": "y", "Rs": "Rs", "alpha_Rs": "alpha_Rs", "r_trunc": "r_trunc"}
    columns = {ours: np.array([float(p[theirs]) for p in parameters]) for theirs, ours in names.items()}
    return Haloes.of(
        distances,
        **columns,
        infall_mass=np.array([float(halo.mass) for halo in realization.halos]),
        radius=radius,
        sigma_sub=sigma_sub,
        log10_host_mass=log10_host,
    )
