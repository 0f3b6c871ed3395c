"""From pixels to posterior: likelihood, priors, starts, optimiser, sampler, diagnostics, verdict."""
