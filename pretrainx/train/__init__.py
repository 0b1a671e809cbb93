"""The training run: experiment, state, step, loop, checkpoints, reports. `build` is the only place where parts meet."""
