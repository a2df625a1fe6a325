"""Networks of Animate: the motion of a face, read by the tokens of the video, and the poses added to them."""
