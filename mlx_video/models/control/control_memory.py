"""How much memory control networks add to a forward of the transformer."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.models.peak import Peak
from mlx_video.models.transformer_memory import ForwardSize, forward_peak, kept_text_bytes


def vace_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """Peak of one forward with VACE: beside the main stream the other one, and what its blocks keep of texts.

    Arguments as for :func:`forward_peak`; VACE blocks are no larger than the others but for one layer, whose
    result is that of a moment.
    """
    config = size.config
    streams = size.num_waiting if waits_for_blocks else 1
    longer = replace(config, num_layers=config.num_layers + len(config.vace_layers))
    texts = kept_text_bytes(replace(size, config=longer)) - kept_text_bytes(size)
    plain = forward_peak(size, waits_for_blocks=waits_for_blocks)
    return plain.beside(streams * size.stream + texts)


def camera_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """Peak of one forward beside the tokens of a camera path, which stay from step to step."""
    return forward_peak(size, waits_for_blocks=waits_for_blocks).beside(size.stream)


def mot_peak(size: ForwardSize, *, waits_for_blocks: bool = False) -> Peak:
    """Peak of one forward with a reference video of as many tokens, and what its blocks keep of texts.

    Arguments as for :func:`forward_peak`. In the blocks with an expert all tokens attend to each other.
    """
    config = size.config
    both = replace(size, num_tokens=2 * size.num_tokens, num_keys=size.num_keys and 2 * size.num_keys)
    joint = forward_peak(both, waits_for_blocks=waits_for_blocks)
    own = replace(size, config=replace(config, num_layers=len(config.mot_layers), mot_layers=()))
    streams = size.num_waiting - 1 if waits_for_blocks else 0
    return joint.beside(kept_text_bytes(own) + streams * size.stream)
