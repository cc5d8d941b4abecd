"""What is stored of a teacher: the kinds, encoding beside decoding, and the source that reads them."""
