"""Networks from files: what a file holds, resident or streamed; knows no run."""
