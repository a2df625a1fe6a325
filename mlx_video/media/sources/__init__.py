"""Videos come in: recognised, decoded and picked one frame at a time."""
