"""Labelled texts: what GLUE's, SuperGLUE's and one's own records mean, in a form of classes and in a form of words. No TensorFlow."""
