"""Inputs of control models become conditioning: VACE, Fun, cameras, speed, one frame."""
