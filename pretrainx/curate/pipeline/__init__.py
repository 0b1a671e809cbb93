"""From raw files to clean shards: stages over shards of input, each of whose results is found again when the run is started again."""
