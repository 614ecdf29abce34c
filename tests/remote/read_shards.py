"""Reads every sample of a split through the cache and prints their hash: a process of its own.

python read_shards.py URL SPLIT CACHE [BYTES]
"""

import hashlib
import sys
from pathlib import Path

from vocdist.remote import transfer
from vocdist.remote.cache import CacheRule
from vocdist.shards.reader import ShardReader

if __name__ == "__main__":
    transfer.RANGE_BYTES = 20_000
    url, split, cache, *bound = sys.argv[1:]
    rule = CacheRule(Path(cache), int(bound[0]) if bound else None)
    reader = ShardReader(url, split, cache=rule)
    digest = hashlib.sha256()
    for index in range(len(reader)):
        digest.update(reader.read(index).jpeg)
    print(digest.hexdigest())
