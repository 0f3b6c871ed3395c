"""Lenses without substructure, with the subhaloes of cold dark matter, with a vortex of an axion superfluid."""
