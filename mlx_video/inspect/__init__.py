"""What a file or folder is, what it lacks, and which command takes it; nothing is written."""
