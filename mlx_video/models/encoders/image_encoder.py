"""The CLIP visual tower: pixels of an image to image tokens."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import ImageEncoderConfig
from mlx_video.models.elementwise import gelu_erf
from mlx_video.models.matmul import attend, project

EPS = 1e-5


class ImageAttention(nn.Module):
    """Attention of all tokens of an image to each other; one layer makes queries, keys and values.

    Source: Wan2.1 wan/modules/clip.py, SelfAttention.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, L, width] → [n, L, width], float32."""
        n, length, width = x.shape
        stacked = project(self.to_qkv, x, mx.float32).reshape(n, length, 3, self.num_heads, -1)
        queries, keys, values = stacked.transpose(2, 0, 3, 1, 4)
        mixed = attend(queries, keys, values, (width // self.num_heads) ** -0.5)
        return project(self.proj, mixed.swapaxes(1, 2).reshape(n, length, width), mx.float32)


class ImageFeedForward(nn.Module):
    """Two linear layers with a GELU between them.

    Source: Wan2.1 wan/modules/clip.py, AttentionBlock.mlp.
    """

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, L, width] → [n, L, width], float32."""
        return project(self.fc2, gelu_erf(project(self.fc1, x, mx.float32)), mx.float32)


class ImageEncoderBlock(nn.Module):
    """Self-attention and feed-forward, each behind a layer norm and added to what came in.

    Source: Wan2.1 wan/modules/clip.py, AttentionBlock.
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = ImageAttention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = ImageFeedForward(config.width, config.mlp_width)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, L, width] → [n, L, width], float32."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CLIPImageEncoder(nn.Module):
    """Encodes images as Wan uses them: the features that enter the tower's last block.

    That block, the norm behind it and the projection into the space shared with text are not part of it.
    Computes in float32 whatever the weights' type: it runs once per image, and its features are what the
    video holds on to. Parameters carry the names of a converted folder's tensors.

    Source: Wan2.1 wan/modules/clip.py, VisionTransformer.
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.width, bias=False)
        self.cls_embedding = mx.zeros((1, 1, config.width))
        self.pos_embedding = mx.zeros((1, config.num_tokens, config.width))
        self.pre_norm = nn.LayerNorm(config.width, eps=EPS)
        self.transformer = [ImageEncoderBlock(config) for _ in range(config.num_layers)]

    def embed(self, pixels: mx.array) -> mx.array:
        """Images to the tokens that enter block 0: one for the whole, then the patches row by row.

        Args:
            pixels: as for a call.

        Returns:
            [n, L, width], float32.
        """
        patches = project(self.patch_embedding, cut_patches(pixels, self.config.patch_size), mx.float32)
        whole = mx.broadcast_to(self.cls_embedding.astype(mx.float32), (len(patches), 1, self.config.width))
        return self.pre_norm(mx.concatenate([whole, patches], axis=1) + self.pos_embedding)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Encode images.

        Args:
            pixels: [n, image_size, image_size, 3], float32, normalized by the mean and deviation of each
                colour.

        Returns:
            [n, L, width], float32; L is one more than there are patches, 257 in Wan's.

        Raises:
            ValueError: the images are of another size.
        """
        size = self.config.image_size
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"pixels of shape {pixels.shape}, the image encoder takes [n, {size}, {size}, 3]"
            )
        x = self.embed(pixels)
        for block in self.transformer:
            x = block(x)
            # Block by block, so that no more than one block's widened weights exist at a time.
            mx.eval(x)
        return x


def cut_patches(pixels: mx.array, patch_size: int) -> mx.array:
    """Cut square images into square patches, row by row.

    Args:
        pixels: [n, S, S, 3].
        patch_size: pixels of a patch's side.

    Returns:
        [n, patches, 3·patch_size²]; colour slowest, as the kernel of a convolution is stored.

    Source: Wan2.1 wan/modules/clip.py, VisionTransformer.patch_embedding.
    """
    n, side = pixels.shape[0], pixels.shape[1] // patch_size
    cells = pixels.reshape(n, side, patch_size, side, patch_size, 3)
    return cells.transpose(0, 1, 3, 5, 2, 4).reshape(n, side * side, -1)
