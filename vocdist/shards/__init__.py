"""Tar shards: planned, written, published by a manifest, and read back at random."""
