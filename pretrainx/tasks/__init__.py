"""What an example means: corpora, vocabularies and SeqIO Tasks.

`corpora`, `vocabulary_spec` and `vocabulary_training` are plain Python; the other modules import SeqIO and TensorFlow.
"""
