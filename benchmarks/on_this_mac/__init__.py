"""One command that measures a Mac: parts that measure, and the report that is made of them."""
