"""What a run asks of memory, and where it is planned for."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.geometry import VideoGeometry
from mlx_video.models.dispatch import Limits
from mlx_video.planning.budget import Budget, Machine
from mlx_video.planning.division import UNDIVIDED, Division
from mlx_video.planning.model_sizes import ModelSizes
from mlx_video.planning.preview_memory import PreviewMaker
from mlx_video.request import DecoderName, StreamMode, TilingMode
from mlx_video.sampling.blocks import BlockPlan


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """A run, as far as its memory depends on it.

    Attributes:
        sizes: of the model.
        geometry: of the video.
        text_lengths: tokens of each text that is encoded.
        num_passes: forwards of a step.
        num_prompts: that these read; None for one each.
        num_images: that the user gave, as many of them as the transformer reads.
        num_videos: that the user gave.
        hears_sound: whether features of a sound are made or read.
        num_samples: of the sound that the user gave.
        reads_image_tokens: whether the transformer reads tokens of an image, or what stands for them.
        leading_frames: latent frames of references, which are sampled before the video's.
        reference_frames: token frames of references that are only read.
        cache_bytes: of a step cache, for each number of a transformer's residual stream.
        keeps_both: whether two experts stay in memory together.
        adapter_bytes: of the adapters of one transformer.
        stream: whether blocks are streamed.
        tiling: of the VAE.
        only_decodes: whether the latents are there already.
        takes_steps: whether anything is denoised; a given video only goes through the VAE otherwise.
        least_frames: pixel frames below which the request makes no sense.
        window_frames: latent frames that a forward sees at once; None for all.
        num_windows: forwards of a step for each of its passes.
        previews: what makes previews.
        fits_colours: whether the colours of previews are fitted to the VAE first.
        decoder: what makes the frames.
        division: of the transformer's work over processes, of which this is one.
        blocks: in which the video is made, one after the other; None for the video as a whole.
        remembered_frames: latent frames at the start whose keys and values are kept, of the whole video.
        sees_blocks: whether self-attention gathers few blocks of keys for each block of tokens.
    """

    sizes: ModelSizes
    geometry: VideoGeometry
    text_lengths: tuple[int, ...]
    num_passes: int
    num_prompts: int | None = None
    num_images: int = 0
    num_videos: int = 0
    hears_sound: bool = False
    num_samples: int = 0
    reads_image_tokens: bool = False
    reference_frames: int = 0
    leading_frames: int = 0
    cache_bytes: int = 0
    keeps_both: bool = False
    adapter_bytes: int = 0
    stream: StreamMode = "auto"
    tiling: TilingMode = "auto"
    only_decodes: bool = False
    takes_steps: bool = True
    least_frames: int = 1
    window_frames: int | None = None
    num_windows: int = 1
    previews: PreviewMaker = "none"
    fits_colours: bool = False
    decoder: DecoderName = "vae"
    division: Division = UNDIVIDED
    blocks: BlockPlan | None = None
    remembered_frames: int = 0
    sees_blocks: bool = False

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a forward; of a video made block by block those of one latent frame."""
        frames, rows, columns = self.geometry.grid
        if self.blocks:
            return rows * columns
        seen = min(frames, self.window_frames or frames) + self.leading_frames + self.reference_frames
        return seen * rows * columns

    @property
    def sampled_geometry(self) -> VideoGeometry:
        """Geometry of what is sampled, references before the video."""
        return self.geometry.with_leading(self.leading_frames)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.geometry.latent_shape[2], self.geometry.latent_shape[3]

    @property
    def encodes_frames(self) -> bool:
        """Whether the VAE's encoder works."""
        return bool(self.num_images or self.num_videos)


@dataclass(frozen=True, slots=True)
class Host:
    """Where a run is planned for."""

    machine: Machine
    budget: Budget
    limits: Limits

    @property
    def gpu(self) -> Limits | None:
        """Limits of the GPU; None where a CPU works."""
        return self.limits if self.machine.on_gpu else None
