"""What the user asked for, checked when constructed. Knows neither models nor files.

Every option is declared here once, with its type, default, help and checks; commands, Python signatures,
records of runs and tables of options follow. The names that other rooms use are gathered here.
"""

from mlx_video.request.adapters import (
    LoraChoice,
    advise_two_strengths,
    path_or_repository,
    read_adapter_choices,
)
from mlx_video.request.choices import (
    MAX_SEED,
    RANDOM_SEED,
    DecoderName,
    DTypeName,
    ExpertMode,
    InputKind,
    LoraMode,
    ModelVersion,
    NoiseKind,
    SchedulerName,
    StreamMode,
    TilingMode,
)
from mlx_video.request.convert import COMPONENT_FIELDS, ConvertRequest
from mlx_video.request.flags import flag_of
from mlx_video.request.generate import (
    FRAME_INPUTS,
    IMAGE_INPUTS,
    INPUTS,
    LORA_FIELDS,
    PICTURE_INPUTS,
    VIDEO_INPUTS,
    GenerateRequest,
    draw_seed,
    given_inputs,
)
from mlx_video.request.kinds import ImageSource
from mlx_video.request.model import ModelRequest
from mlx_video.request.option import Option, make_request, option, options_of

__all__ = [
    "COMPONENT_FIELDS",
    "FRAME_INPUTS",
    "IMAGE_INPUTS",
    "INPUTS",
    "LORA_FIELDS",
    "MAX_SEED",
    "PICTURE_INPUTS",
    "RANDOM_SEED",
    "VIDEO_INPUTS",
    "ConvertRequest",
    "DTypeName",
    "DecoderName",
    "ExpertMode",
    "GenerateRequest",
    "ImageSource",
    "InputKind",
    "LoraChoice",
    "LoraMode",
    "ModelRequest",
    "ModelVersion",
    "NoiseKind",
    "Option",
    "SchedulerName",
    "StreamMode",
    "TilingMode",
    "advise_two_strengths",
    "draw_seed",
    "flag_of",
    "given_inputs",
    "make_request",
    "option",
    "options_of",
    "path_or_repository",
    "read_adapter_choices",
]
