"""Networks, their normalisation, losses and metrics. None of them knows where or how it is trained."""
