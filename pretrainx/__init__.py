"""pretrainx: pretraining of language models in JAX, from raw text to a portable model."""

__version__ = "0.1.0"
