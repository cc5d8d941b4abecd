"""Store a teacher's signal in a cache: the kinds, with encoding and decoding, and the source that reads them."""
