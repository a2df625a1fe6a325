"""What speech-to-video reads: sound by frames, poses, a reference image and the frames before a clip."""
