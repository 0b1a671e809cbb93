"""Which device holds what: the mesh, the named layouts, and sharding by logical dim names."""
