"""Many candidates' fits as one tensor program: on a GPU a small lens alone leaves the machine idle."""
