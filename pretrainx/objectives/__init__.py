"""Objectives: one file each. What an example looks like (NumPy) and what its loss is (JAX), side by side."""
