"""What a model has learned: perplexity and bits per byte, samples, counted baselines."""
