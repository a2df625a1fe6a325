"""LongCat-Video's transformer. Arrays in, arrays out."""
