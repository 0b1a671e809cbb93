"""Documents before they are tokens: reading, cleaning, deduplicating. Plain Python, no JAX and no TensorFlow."""
