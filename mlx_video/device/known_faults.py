"""Faults of MLX releases and of chips that were reported by others, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass

FIRST_TENSOR_UNITS = 17
"""Generation of the first GPU with tensor units, M5."""


@dataclass(frozen=True, slots=True)
class KnownFault:
    """A fault that was reported, and where it strikes.

    Attributes:
        text: what goes wrong.
        advice: what helps.
        source: where it was reported.
        fixed_in: first MLX release without it; None for an open one.
        since: first MLX release with it.
        first_generation: of the GPUs that have it; 13 is M1.
    """

    text: str
    advice: str
    source: str
    fixed_in: tuple[int, ...] | None = None
    since: tuple[int, ...] = (0,)
    first_generation: int = 13


_UPGRADE = "pip install -U mlx"
_CUT = "The transformer's work is cut so that no array grows so large."

KNOWN_FAULTS: tuple[KnownFault, ...] = (
    KnownFault(
        "Quantized products of more than 32,768 rows give garbage.",
        f"Rows are always cut. {_UPGRADE}",
        "ml-explore/mlx pulls 3631 and 3922",
        (0, 32, 1),
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "Builds for systems older than macOS 26.2 multiply bfloat16 and float16 wrongly.",
        f"{_UPGRADE}; or set MLX_METAL_GPU_ARCH=applegpu_g16s, which is slower.",
        "ml-explore/mlx issues 3585 and 3586",
        (0, 32, 0),
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "On macOS 26.0 and 26.1 kernels run that the system cannot run.",
        "Update to macOS 26.2, or set MLX_METAL_GPU_ARCH=applegpu_g16s.",
        "ml-explore/mlx issue 4525",
        since=(0, 32, 0),
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "Some packages (Homebrew among them) lack the tensor units' kernels: right results, up to four times "
        "slower.",
        f"{_UPGRADE}",
        "ml-explore/mlx pull 3622",
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "Products of long rows (10,240 and more) with few outputs give garbage in bfloat16.",
        f"{_UPGRADE}",
        "ml-explore/mlx issue 3810",
        (0, 32, 1),
        since=(0, 31, 3),
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "Attention under a mask with more than 32,768 keys gives garbage.",
        "Nothing to do: video tokens never get a mask.",
        "ml-explore/mlx issues 3360 and 3361",
        (0, 32, 0),
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "float32 products carry ten bits of mantissa unless MLX_ENABLE_TF32=0.",
        "Nothing to do where mlx_video is imported before MLX's first product; else set MLX_ENABLE_TF32=0.",
        "ml-explore/mlx issues 3534 and 3860",
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "Convolutions of many channels lose most digits, in float32 under TF32 and in half precision always.",
        "The VAE stays in float32, and where the check finds this, another method is used.",
        "ml-explore/mlx pull 4242",
        first_generation=FIRST_TENSOR_UNITS,
    ),
    KnownFault(
        "Convolutions whose input or output exceeds 2^31 elements give garbage.",
        _CUT,
        "ml-explore/mlx issue 3248",
        since=(0, 30, 1),
    ),
    KnownFault(
        "Elementwise kernels and views of arrays with more than 2^31 elements give garbage.",
        _CUT,
        "ml-explore/mlx issues 3327 and 4548",
    ),
    KnownFault(
        "macOS gives up on GPU work that takes some seconds, sooner while the display is on.",
        "Dispatches are kept short; let the display sleep, or set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1.",
        "ml-explore/mlx issue 3267",
    ),
    KnownFault(
        "Work that the GPU gives up on ends the whole process.",
        f"Dispatches are kept short. {_UPGRADE}",
        "ml-explore/mlx pull 3523",
        (0, 32, 0),
    ),
    KnownFault(
        "Work that the GPU gives up on, or has no memory for, leaves zeros and mostly no error: grey videos.",
        f"{_UPGRADE}",
        "ml-explore/mlx pull 3742 and issue 3979",
        (0, 32, 1),
        since=(0, 32, 0),
    ),
)


def has_tensor_units(architecture: str) -> bool:
    """Whether a GPU of this architecture has tensor units."""
    return (_generation(architecture) or 0) >= FIRST_TENSOR_UNITS


def _generation(architecture: str) -> int | None:
    found = re.match(r"applegpu_g(\d+)", architecture)
    return int(found[1]) if found else None


def find_faults(mlx_version: str, architecture: str) -> tuple[KnownFault, ...]:
    """The faults that concern a machine.

    Args:
        mlx_version: as MLX tells it, "0.32.4".
        architecture: of the GPU, "applegpu_g16s"; anything else has none of these faults.
    """
    generation = _generation(architecture)
    if generation is None:
        return ()
    version = tuple(int(number) for number in re.findall(r"\d+", mlx_version)[:3])
    return tuple(
        fault
        for fault in KNOWN_FAULTS
        if fault.first_generation <= generation
        and fault.since <= version
        and (fault.fixed_in is None or version < fault.fixed_in)
    )
