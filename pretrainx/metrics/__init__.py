"""Metrics of texts and labels, `(targets, predictions) -> {name: value}`: a SeqIO Task takes them as `metric_fns`. No TensorFlow.

Shares from 0 to 1, except BLEU, chrF and ROUGE, which go from 0 to 100 as their libraries give them.
"""
