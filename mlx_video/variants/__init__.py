"""Every model variant as a value; the only room in which a variant's name appears. Knows no files."""
