"""Lensing as pure functions on tensors: profiles, PSFs, pixels. Everything broadcasts, is differentiable and
runs in the dtype and on the device of its arguments. Angles in arcseconds, definitions as in lenstronomy
(Birrer & Amara 2018, arXiv:1803.09746; Birrer et al. 2021, JOSS 6, 3283)."""
