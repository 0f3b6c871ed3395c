"""Shards to batches, and the training loop: the only room that knows of ranks."""
