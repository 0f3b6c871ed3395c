"""Lenses with supernovae: images in several bands and the light curves that belong to them."""
