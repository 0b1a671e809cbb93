"""How a text becomes a vector: one file an embedding, a plug-in with `class Embedding` (see `semantic.Embedding`)."""
