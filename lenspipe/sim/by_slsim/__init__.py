"""Lenses drawn by slsim, as scenes of the renderer here."""
