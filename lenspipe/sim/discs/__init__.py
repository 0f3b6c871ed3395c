"""Protoplanetary discs as ALMA sees them, with and without a planet."""
