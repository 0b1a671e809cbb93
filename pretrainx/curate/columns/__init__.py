"""Words, lines and paragraphs of a batch as arrays of positions and hashes, made once and shared by all filters."""
