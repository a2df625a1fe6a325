"""How many frames a clip begins with that may begin with several: whole latent frames of its own."""

from __future__ import annotations

from mlx_video.conditioning.continuation.way import CountShared
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.geometry import latent_frames, pixel_frames
from mlx_video.request import GenerateRequest


def count_tail(usual: int) -> CountShared:
    """Count as many as the user asks for; else the usual ones, or about half of a short clip."""

    def count(request: GenerateRequest, config: ModelConfig, title: str) -> int:
        asked, num_frames = request.continue_frames, request.num_frames or config.sampling.num_frames
        stride = config.vae.stride[0]
        if asked is None:
            return min(usual, pixel_frames(latent_frames((num_frames + 1) // 2, stride), stride))
        if pixel_frames(latent_frames(asked, stride), stride) != asked or asked >= num_frames:
            raise RequestError(
                "continue_frames",
                f"{asked}: must be {stride}n+1, as the VAE packs frames, and less than the clip's "
                f"{num_frames}.",
            )
        return asked

    return count
