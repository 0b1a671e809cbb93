"""What every other part may use: errors, files, randomness, configs. Imports nothing of ours and no JAX."""
