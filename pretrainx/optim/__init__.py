"""Optimizers as Optax chains: one file each with `Config` and `build`; schedules and masks beside them."""
