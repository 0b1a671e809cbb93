"""Foresight: the real training step compiled for hardware that is not there."""
