"""Pascal VOC on disk: find it, read its XML, pair, split and count it."""
