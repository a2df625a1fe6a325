"""Many videos of one model in one session: names, texts first, experts in turn, what is made already."""
