"""Simulated cutouts: surveys, populations, rendering, noise. Arrays in, arrays out."""
