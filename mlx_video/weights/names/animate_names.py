"""Tensors of Animate beside those of the image-to-video transformer: which there are, and their spellings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from mlx_video.config import FACE_SIZE, FaceConfig, TransformerConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.models.animate.motion_encoder import BLUR, NUM_LINEAR_LAYERS
from mlx_video.weights.names.transformer_names import PATCH_CELLS, linear_tensors
from mlx_video.weights.rules import CHANNELS_LAST, FLATTEN_KERNEL, Rule, Shape, drop
from mlx_video.weights.stored.stacked import Stack

FACE_ANCHOR = "face_adapter.fuser_blocks.0.linear1_q.weight"
POSE_ANCHOR = "pose_patch_embedding.weight"
PARTS = ("pose_patch_embedding.", "motion_encoder.", "face_encoder.", "face_adapter.")
"""How the names of all tensors begin that only Animate has."""

NUM_HALVINGS = 7
_CONVS = "motion_encoder.enc.net_app.convs"
_LAST = f"{_CONVS}.{NUM_HALVINGS + 1}.weight"
# Part of a halving block: its place among the layers of an official one.
_CONVOLUTIONS = {"conv1": 0, "conv2": 1, "conv_skip": 1}
_OFFICIAL_NAMES = {"conv1": "conv1", "conv2": "conv2", "conv_skip": "skip"}


def _conv_pairs() -> dict[str, str]:
    """Official names of the motion encoder's convolutions and biases → ours."""
    pairs = {f"{_CONVS}.0.0.weight": "conv_in.weight", f"{_CONVS}.0.1.bias": "conv_in.bias"}
    for number in range(NUM_HALVINGS):
        for ours, place in _CONVOLUTIONS.items():
            official, own = f"{_CONVS}.{number + 1}.{_OFFICIAL_NAMES[ours]}", f"res_blocks.{number}.{ours}"
            pairs[f"{official}.{place}.weight"] = f"{own}.weight"
            if ours != "conv_skip":
                pairs[f"{official}.{place + 1}.bias"] = f"{own}.bias"
    return {**pairs, _LAST: "conv_out.weight"}


_BIASES = frozenset(name for name in _conv_pairs() if name.endswith(".bias"))

ANIMATE_RULES = (
    drop(f"{_CONVS}.N.conv2.0.kernel"),  # the blur's, the same in every model
    drop(f"{_CONVS}.N.skip.0.kernel"),
    Rule(POSE_ANCHOR, "pose_patch_embedding_proj.weight", FLATTEN_KERNEL),
    Rule("pose_patch_embedding.bias", "pose_patch_embedding_proj.bias"),
    *(Rule(official, f"motion_encoder.{ours}", CHANNELS_LAST) for official, ours in _conv_pairs().items()),
    Rule("motion_encoder.enc.fc.N.*", "motion_encoder.motion_network.N.*"),
    Rule("motion_encoder.dec.direction.weight", "motion_encoder.directions"),
    *(
        Rule(f"face_encoder.{layer}.conv.weight", f"face_encoder.{layer}.weight", CHANNELS_LAST)
        for layer in ("conv1_local", "conv2", "conv3")
    ),
    *(
        Rule(f"face_encoder.{layer}.conv.bias", f"face_encoder.{layer}.bias")
        for layer in ("conv1_local", "conv2", "conv3")
    ),
)
"""From the official names to ours, where these differ."""

# Parts of what the official code keeps as one layer; `find_stacks` joins them.
KEYS, VALUES, BOTH = "linear1_k", "linear1_v", "linear1_kv"

# Source: diffusers scripts/convert_wan_to_diffusers.py, ANIMATE_TRANSFORMER_KEYS_RENAME_DICT.
ANIMATE_DIFFUSERS_RULES = (
    *(
        Rule(f"motion_encoder.{ours.replace('.bias', '.act_fn.bias')}", official)
        for official, ours in _conv_pairs().items()
    ),
    Rule("motion_encoder.motion_network.N.*", "motion_encoder.enc.fc.N.*"),
    Rule("motion_encoder.motion_synthesis_weight", "motion_encoder.dec.direction.weight"),
    *(
        Rule(f"face_encoder.{layer}.*", f"face_encoder.{layer}.conv.*")
        for layer in ("conv1_local", "conv2", "conv3")
    ),
    *(
        Rule(f"face_adapter.N.{theirs}.*", f"face_adapter.fuser_blocks.N.{official}.*")
        for theirs, official in (
            ("to_q", "linear1_q"), ("to_k", KEYS), ("to_v", VALUES), ("to_out", "linear2"),
            ("norm_q", "q_norm"), ("norm_k", "k_norm"),
        )
    ),
)  # fmt: skip
"""From Diffusers' names to the official ones."""

BLUR_SHAPE = (len(BLUR), len(BLUR))
_AXES_OF_A_BIAS = 4


def find_stacks(infos: Mapping[str, TensorInfo]) -> dict[str, Stack]:
    """How official tensors come about where a file has them in another form.

    Diffusers keeps keys and values of the face apart, and it and GGUF's tools have the biases of the motion
    encoder without axes of length one.

    Args:
        infos: a transformer's tensors under the official names, and the parts as the rules spell them.
    """
    stacks = {}
    for name, info in infos.items():
        layer, _, part = name.rpartition(".")
        values = f"{layer.removesuffix(KEYS)}{VALUES}.{part}"
        if layer.endswith(f".{KEYS}") and values in infos and info.shape:
            stacks[f"{layer.removesuffix(KEYS)}{BOTH}.{part}"] = Stack((name, values))
        if name in _BIASES and 1 <= len(info.shape) < _AXES_OF_A_BIAS and info.shape[0] > 1:
            stacks[name] = Stack((name,), 1, _AXES_OF_A_BIAS - 1 - len(info.shape))
    return stacks


def animate_tensors(config: TransformerConfig) -> dict[str, Shape]:
    """Name and shape of every tensor that Animate adds to a transformer, as the official code spells them.

    Source: Wan2.2 wan/modules/animate/model_animate.py, WanAnimateModel.
    """
    face, dim = config.face, config.dim
    assert face is not None
    tensors: dict[str, Shape] = {
        POSE_ANCHOR: (dim, face.pose_dim, *config.patch_size),
        "pose_patch_embedding.bias": (dim,),
        **_motion_encoder_tensors(face),
        **_face_encoder_tensors(face, dim),
    }
    for number in range(len(face.layers)):
        path = f"face_adapter.fuser_blocks.{number}"
        tensors |= {
            **linear_tensors(f"{path}.{BOTH}", 2 * dim, dim),
            **linear_tensors(f"{path}.linear1_q", dim, dim),
            **linear_tensors(f"{path}.linear2", dim, dim),
            f"{path}.q_norm.weight": (config.head_dim,),
            f"{path}.k_norm.weight": (config.head_dim,),
        }
    return tensors


def read_face_sizes(shapes: Mapping[str, Shape], num_layers: int) -> FaceConfig | None:
    """Read the sizes of what follows a face; None where there is nothing of the kind.

    Args:
        shapes: a transformer's tensors under the official names; kernels as they are, or of a converted file.
        num_layers: of the transformer.

    Raises:
        CheckpointError: a tensor that tells a size is missing or misshapen.
    """
    if FACE_ANCHOR not in shapes:
        return None

    def size(name: str, axis: int = 0) -> int:
        shape = shapes.get(name, ())
        if len(shape) <= axis or not shape[axis]:
            raise CheckpointError(
                f"transformer: tensor {name} is missing or misshapen ({list(shape)}); its face adapter needs "
                "it. Fetch the file again."
            )
        return shape[axis]

    directions, hidden_dim = "motion_encoder.dec.direction.weight", size("face_encoder.conv2.conv.weight")
    count = len({name.split(".")[2] for name in shapes if name.startswith("face_adapter.fuser_blocks.")})
    interval = max(num_layers // count, 1)
    pose = shapes.get(POSE_ANCHOR, ())
    return FaceConfig(
        layers=tuple(range(0, count * interval, interval)),
        channels=(
            size(f"{_CONVS}.0.0.weight"),
            *(size(f"{_CONVS}.{number + 1}.conv2.1.weight") for number in range(NUM_HALVINGS)),
        ),
        style_dim=size(_LAST),
        num_directions=size(directions, 1),
        motion_dim=size(directions),
        hidden_dim=hidden_dim,
        num_heads=max(size("face_encoder.conv1_local.conv.weight") // hidden_dim, 1),
        pose_dim=size(POSE_ANCHOR, 1) // (PATCH_CELLS if len(pose) == 2 else 1),
    )


def read_head_dim(shapes: Mapping[str, Shape], usual: int) -> int:
    """Channels of an attention head, as the face adapter's norms tell; the usual ones without it."""
    shape = shapes.get("face_adapter.fuser_blocks.0.q_norm.weight", ())
    return shape[0] if shape and shape[0] else usual


def list_face_statements(face: FaceConfig | None) -> dict[str, object]:
    """What a checkpoint's config.json says of a face, where it says anything.

    Source: Wan2.2 wan/modules/animate/model_animate.py, WanAnimateModel; for the others diffusers
    src/diffusers/models/transformers/transformer_wan_animate.py, WanAnimateTransformer3DModel.
    """
    if face is None:
        return {}
    return {
        "motion_encoder_dim": face.motion_dim,
        "motion_encoder_size": FACE_SIZE,
        "motion_style_dim": face.style_dim,
        "motion_dim": face.num_directions,
        "face_encoder_hidden_dim": face.hidden_dim,
        "face_encoder_num_heads": face.num_heads,
        **({"inject_face_latents_blocks": face.layers[1]} if face.layers[1:] else {}),
    }


def blur_buffers() -> dict[str, Shape]:
    """Name and shape of the blur's kernels, which published files hold and nothing reads."""
    return {
        f"{_CONVS}.{number + 1}.{layer}.0.kernel": BLUR_SHAPE
        for number in range(NUM_HALVINGS)
        for layer in ("conv2", "skip")
    }


def _motion_encoder_tensors(face: FaceConfig) -> dict[str, Shape]:
    first, *_, last = channels = face.channels
    tensors: dict[str, Shape] = {
        f"{_CONVS}.0.0.weight": (first, 3, 1, 1),
        f"{_CONVS}.0.1.bias": (1, first, 1, 1),
        _LAST: (face.style_dim, last, 4, 4),
        "motion_encoder.dec.direction.weight": (face.motion_dim, face.num_directions),
    }
    for number, (into, out) in enumerate(pairwise(channels), 1):
        path = f"{_CONVS}.{number}"
        tensors |= {
            f"{path}.conv1.0.weight": (into, into, 3, 3),
            f"{path}.conv1.1.bias": (1, into, 1, 1),
            f"{path}.conv2.1.weight": (out, into, 3, 3),
            f"{path}.conv2.2.bias": (1, out, 1, 1),
            f"{path}.skip.1.weight": (out, into, 1, 1),
        }
    for number in range(NUM_LINEAR_LAYERS):
        rows = face.num_directions if number == NUM_LINEAR_LAYERS - 1 else face.style_dim
        tensors |= linear_tensors(f"motion_encoder.enc.fc.{number}", rows, face.style_dim)
    return tensors


def _face_encoder_tensors(face: FaceConfig, dim: int) -> dict[str, Shape]:
    hidden_dim = face.hidden_dim
    widths = {
        "conv1_local": (face.num_heads * hidden_dim, face.motion_dim),
        "conv2": (hidden_dim, hidden_dim),
        "conv3": (hidden_dim, hidden_dim),
    }
    tensors: dict[str, Shape] = {}
    for layer, (out, into) in widths.items():
        tensors |= {
            f"face_encoder.{layer}.conv.weight": (out, into, 3),
            f"face_encoder.{layer}.conv.bias": (out,),
        }
    return {
        **tensors,
        **linear_tensors("face_encoder.out_proj", dim, hidden_dim),
        "face_encoder.padding_tokens": (1, 1, 1, dim),
    }
