"""Files as bytes: whole or absent, read ahead, kept in caches; knows no format."""
