"""lenspipe: from a sky survey's cutouts to a catalogue of strong-lens models."""

__version__ = "0.1.0"
