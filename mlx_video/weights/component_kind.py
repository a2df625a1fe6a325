"""What a file holds, told by its tensors' names alone: which component of a model, in which spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mlx_video.formats.sentencepiece_model import TOKENIZER_TENSOR
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.layouts.components import VAE, Component, Marks, SpellingName, list_components
from mlx_video.weights.names import text_encoder_names
from mlx_video.weights.names.adapter_names import is_adapter_name

VaeGeneration = Literal["2.1", "2.2"]


@dataclass(frozen=True, slots=True)
class ComponentKind:
    """One component that a file holds.

    Attributes:
        component: what it is, by the name of its row; or "adapter", which is none of a checkpoint's.
        spelling: whose names its tensors have; "mlx" where the file is converted already, "fastvideo" where
            FastVideo did so.
        prefix: what stands before its own names, with the final dot; "" without one.
        vae_generation: of a VAE: 2.1 has latents of 16 channels, 2.2 of 48.
    """

    component: str
    spelling: SpellingName = "original"
    prefix: str = ""
    vae_generation: VaeGeneration | None = None

    @property
    def title(self) -> str:
        """What messages call it: "VAE 2.1", "text encoder", "converted text encoder"."""
        name = self.component.replace("_", " ")
        if self.component == "vae":
            name = f"VAE {self.vae_generation}"
        return f"converted {name}" if self.is_converted else name

    @property
    def is_converted(self) -> bool:
        """Whether the file is for MLX already."""
        return self.spelling in ("mlx", "fastvideo")


# Number of a text encoder's block, in each spelling; and where the block has a table of positions.
_TEXT_BLOCK = re.compile(r"\bbl(?:k|ocks?)\.(\d+)\.")
_POSITION_TABLE = re.compile(
    _TEXT_BLOCK.pattern
    + r"(?:layer\.0\.SelfAttention\.relative_attention_bias|attn_rel_b|pos_embedding\.embedding)\.weight$"
)
# Names that only the later generation of VAEs has, behind the prefix.
_WAN22_VAE_MARKS: Mapping[SpellingName, tuple[str, ...]] = MappingProxyType(
    {
        "original": ("decoder.upsamples.0.upsamples.0.residual.2.weight",),
        "diffusers": ("decoder.up_blocks.0.upsampler.resample.1.weight",),
        "mlx": ("decoder.middle.0.residual.layer_0.gamma", "encoder.middle.0.residual.layer_0.gamma"),
    }
)


def find_components(infos: Mapping[str, TensorInfo]) -> tuple[ComponentKind, ...]:
    """Every component that a file, or a set of shards, holds; all-in-one files hold several.

    Args:
        infos: the tensors as they are stored, with whatever prefix, dtype or scales.

    Returns:
        At most one of each; nothing for another model's file. An adapter stands alone.
    """
    # quanto keeps the codes of a weight beside its scale.
    names = {name.removesuffix("._data") for name in infos}
    if any(map(is_adapter_name, names)):
        return (ComponentKind("adapter"),)
    found: dict[str, ComponentKind] = {}
    for row, marks in ((one, marks) for one in list_components() for marks in one.marks):
        if marks.is_all and len(marks.names) != len(names):
            continue
        for prefix in _find_prefixes(names, marks.names):
            if not marks.kernel or _is_channels_last(infos.get(prefix + marks.kernel)):
                found.setdefault(row.name, _describe(row, marks, prefix, names))
    if found.keys() == {"vae"} and _is_lesser_part(names, found["vae"].prefix):
        return ()
    return tuple(found.values())


def has_tokenizer(infos: Iterable[str]) -> bool:
    """Whether a text encoder's file holds its tokenizer too."""
    return any(map(is_tokenizer_tensor, infos))


def is_tokenizer_tensor(name: str) -> bool:
    """Whether a tensor is a tokenizer, whatever stands before its name."""
    return name == TOKENIZER_TENSOR or name.endswith(f".{TOKENIZER_TENSOR}")


def is_other_text_encoder(infos: Mapping[str, TensorInfo]) -> bool:
    """Whether a text encoder is T5 or one of its kin, which other models use and Wan does not.

    UMT5 has a table of relative positions in every block; the others have one in the first.
    """
    tables = (*text_encoder_names.HF_TOKEN_TABLES, text_encoder_names.ANCHOR, "token_embd.weight")
    rows = {info.shape[:1] for name, info in infos.items() if name.endswith(tables)}
    if rows == {(text_encoder_names.T5_V1_1_VOCABULARY,)}:
        return True
    blocks = {match[1] for name in infos if (match := _TEXT_BLOCK.search(name))}
    with_table = {match[1] for name in infos if (match := _POSITION_TABLE.search(name))}
    return len(blocks) > 1 and with_table == {"0"}


def _is_lesser_part(names: set[str], prefix: str) -> bool:
    """Whether a file of another model holds a component among much else, as all-in-one files do."""
    return bool(prefix) and 2 * sum(name.startswith(prefix) for name in names) < len(names)


def _find_prefixes(names: set[str], marks: tuple[str, ...]) -> Iterator[str]:
    """The prefix behind which all marks stand; none where it could be one of several."""
    anchor, *others = marks
    ends = [name for name in names if name == anchor or name.endswith(f".{anchor}")]
    prefixes = [name.removesuffix(anchor) for name in ends]
    whole = [prefix for prefix in prefixes if all(prefix + other in names for other in others)]
    if len(whole) == 1:
        yield whole[0]


def _is_channels_last(kernel: TensorInfo | None) -> bool:
    """Whether a kernel of three cells a side lies as MLX keeps it: [out, t, h, w, in]."""
    return kernel is not None and kernel.shape[1:4] == (3, 3, 3) and len(kernel.shape) == 5


def _describe(row: Component, marks: Marks, prefix: str, names: set[str]) -> ComponentKind:
    generation: VaeGeneration | None = None
    if row is VAE:
        is_wan22 = any(prefix + mark in names for mark in _WAN22_VAE_MARKS[marks.spelling])
        generation = "2.2" if is_wan22 else "2.1"
    return ComponentKind(row.name, marks.spelling, prefix, generation)
