"""From shards to batches: an exact global order, decoding, geometry, collation."""
