"""Documents that are there twice: equal (`exact`), nearly equal (`near`), equal in meaning (`semantic`).

Each kind is a few pure functions whose unit is a shard: a map over a shard's documents writes sorted columns to files of the
caller's choice (`columns`), a reduce reads from all of them one range of keys, so that memory is bounded and any executor can run it.
A document's *place* is one int64, shard << 32 | index within the shard. `clusters.representatives` decides which copies stay,
in an order of the caller's choice. `find` runs it all on one machine, without files.
"""
