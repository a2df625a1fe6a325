"""How much memory Animate adds to a forward of the transformer."""

from __future__ import annotations

from mlx_video.config import FACE_SIZE, FaceConfig
from mlx_video.models.peak import WIDE, Peak
from mlx_video.models.transformer_memory import ForwardSize, forward_peak

ARRAYS_OF_A_FACE = 12
"""Arrays of a face's pixels at the motion encoder's first width that exist at once.

On a CPU 9 of them are copies of what enters a 3x3 convolution, one for each element of its kernel; on a GPU
as many are terms of the blur.
"""


def animate_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """Peak of one forward with Animate; arguments as for :func:`forward_peak`.

    The face is encoded before the first forward. Face blocks take less than the others: their keys are few.
    """
    face = size.config.face
    assert face is not None
    return forward_peak(size, waits_for_blocks=waits_for_blocks).or_before(face_peak(face))


def face_peak(face: FaceConfig) -> Peak:
    """Peak of encoding a face, of any number of frames: one after the other."""
    nbytes = ARRAYS_OF_A_FACE * FACE_SIZE**2 * face.channels[0] * WIDE
    return Peak(nbytes, nbytes)
