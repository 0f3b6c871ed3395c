"""Truth masks from noiseless layers."""
