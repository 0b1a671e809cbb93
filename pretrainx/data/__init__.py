"""Which rows, in what order, where: the token cache, windows over it, the order of a mixture, and the loader."""
