"""What a video is made from: texts, images, videos, cameras; and its size."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.choices import (
    CameraDirection,
    FitMode,
    VACERegion,
)
from mlx_video.request.kinds import (
    ImageSource,
    LayerScales,
    Numbers,
    Pictures,
    ReadPath,
    VideoSource,
    WholeNumbers,
)
from mlx_video.request.option import (
    at_least,
    between,
    option,
    positive,
)
from mlx_video.request.shared import TEXT_GROUP, THE_MODELS

VACE_GROUP = "VACE"
ONE_FRAME_GROUP = "one picture among others"
_SIZE_HELP = "pixels, rounded to a multiple of 16, TI2V 5B: 32"
_SIZE_DEFAULT = "the model's, or the shape of the image or video"


@dataclass(frozen=True)
class InputOptions:
    """Options that say what a video shows, and how large it is."""

    prompt: str = option(
        help='what the video shows; `""` for no prompt',
        group=TEXT_GROUP,
        default_text="the demo model's example",
        input="text",
    )
    negative_prompt: str | None = option(
        None,
        help='what it should not show; `""` for nothing',
        group=TEXT_GROUP,
        default_text=THE_MODELS,
        off_help="guide against the empty prompt",
    )
    image: ImageSource | None = option(
        None,
        help="first frame, for image-to-video models; the video takes its shape unless --width or --height "
        "is given",
        group="images",
        metavar="FILE",
        input="image",
    )
    end_image: ImageSource | None = option(
        None,
        help="last frame, for first-and-last-frame models and the large image-to-video ones; only together "
        "with --image",
        group="images",
        metavar="FILE",
        input="image",
    )
    control_video: VideoSource | None = option(
        None,
        help="video that a Fun Control model, or one with a control LoRA, follows: edges, depth, poses; "
        "without one only the other inputs count",
        group="control",
        metavar="PATH",
        input="video",
    )
    reference_image: ImageSource | None = option(
        None,
        help="picture of what is to appear, for Fun Control models from V1.1 on",
        group="control",
        metavar="FILE",
        input="image",
    )
    inpaint_video: VideoSource | None = option(
        None,
        help="video that a Fun InP model fills in where --inpaint-video-mask is white",
        group="control",
        metavar="PATH",
        input="video",
    )
    inpaint_video_mask: VideoSource | None = option(
        None,
        help="white where --inpaint-video is made anew, black where it stays; a video, or one picture for "
        "all frames",
        group="control",
        metavar="PATH",
        input="mask",
    )
    camera_control_direction: CameraDirection | None = option(
        None,
        help="how the camera of a Control-Camera model moves, as DiffSynth-Studio knows the words",
        group="control",
        input="camera",
    )
    camera_trajectory: ReadPath | None = option(
        None,
        help="path of the camera in place of a direction: a file of poses, or `Static`, `Pan_Up`, "
        "`Pan_Left_Up` and the like, `Zoom_In`, `Zoom_Out`, `CW`, `ACW` as VideoX-Fun has them",
        group="control",
        metavar="FILE|PRESET",
        input="camera",
    )
    camera_control_speed: float | None = option(
        None,
        help="how fast the camera moves: change of each frame in a direction, or share of a preset; 0 stands "
        "still",
        group="control",
        default_text="1/54 in a direction, 1 of a preset",
        only_with=("camera_control_direction", "camera_trajectory"),
        input="camera",
    )
    camera_control_origin: Numbers | None = option(
        None,
        help="first pose: time, fx, fy, cx, cy, two zeros, and the 3x4 matrix from world to camera, with "
        "commas between the 19 numbers",
        group="control",
        metavar="LIST",
        default_text="a lens for 16:9",
        only_with=("camera_control_direction", "camera_trajectory"),
        input="camera",
    )
    motion_bucket_id: float | None = option(
        None,
        help="how much moves, 0 to 100, in models converted with `--motion-controller`; 0 is slow, 100 fast",
        group="control",
        default_text="the model's own way",
        check=between(0, 100),
        input="number",
    )
    input_video: VideoSource | None = option(
        None,
        help="video to begin with, in place of pure noise: a file, a folder of numbered pictures or an "
        "animation; its first frames are used",
        group="videos",
        metavar="PATH",
        input="video",
    )
    denoising_strength: float = option(
        1.0,
        help="how much of --input-video is made anew, 0 to 1; at 0 it only goes through the VAE, at 1 "
        "nothing of it stays",
        group="videos",
        check=between(0, 1),
        only_with=("input_video",),
    )
    video_fps: float | None = option(
        None,
        help="frames per second of the videos that are given, in place of what they say; those of the model "
        "are met by picking frames",
        group="videos",
        default_text="the videos' own",
        check=positive(),
    )
    vace_video: VideoSource | None = option(
        None,
        help="video for a VACE model to follow, or to fill in where --vace-video-mask is white",
        group=VACE_GROUP,
        metavar="PATH",
        input="video",
    )
    vace_video_mask: VideoSource | None = option(
        None,
        help="white where a VACE model makes something, black where the video stays; a video, or one picture "
        "for all frames",
        group=VACE_GROUP,
        default_text="white everywhere",
        metavar="PATH",
        input="mask",
    )
    vace_masked_region: VACERegion = option(
        "generate",
        help="`generate`: the model sees grey under the mask; `repaint`: it sees the video there, and paints "
        "over it",
        group=VACE_GROUP,
        only_with=("vace_video_mask",),
    )
    vace_reference_image: Pictures = option(
        (),
        help="picture of what is to appear in the video of a VACE model",
        group=VACE_GROUP,
        input="pictures",
    )
    vace_scale: LayerScales = option(
        1.0,
        help="how strongly a VACE model follows its inputs; 0 leaves it text alone; or as many numbers as it "
        "has VACE blocks, with commas between them",
        group=VACE_GROUP,
        metavar="SCALES",
    )
    target_index: int | None = option(
        None,
        help="make one picture in place of a video, at this position in time, counted in latent frames; for "
        "Wan2.1 I2V and FLF2V with an adapter that is trained for it",
        group=ONE_FRAME_GROUP,
        default_text="make a video",
        check=between(0, 1023),
        input="number",
    )
    control_image: Pictures = option(
        (),
        help="picture beside the one that is made, at its own position in time",
        group=ONE_FRAME_GROUP,
        input="pictures",
    )
    control_index: WholeNumbers = option(
        (),
        help="position of each control picture, in their order, with commas between them",
        group=ONE_FRAME_GROUP,
        metavar="LIST",
        input="number",
    )
    fit: FitMode = option(
        "cover",
        help="how images, videos and masks of another shape than the video meet it: `cover`: cut at the "
        "centre; `letterbox`: whole, between black bars, white ones of a mask; `stretch`: distorted",
        group="size",
        only_with=(
            "image", "end_image", "reference_image", "control_image", "control_video", "inpaint_video",
            "input_video", "vace_video", "vace_video_mask", "animate_pose_video", "animate_face_video",
            "animate_inpaint_video", "animate_mask_video", "longcat_video",
        ),
    )  # fmt: skip
    width: int | None = option(
        None, help=_SIZE_HELP, group="size", default_text=_SIZE_DEFAULT, check=at_least(1)
    )
    height: int | None = option(
        None, help=_SIZE_HELP, group="size", default_text=_SIZE_DEFAULT, check=at_least(1)
    )
    num_frames: int | None = option(
        None,
        help="frames, 4n+1: 17, 49, 81 ...",
        group="size",
        default_text=THE_MODELS,
        check=at_least(1),
    )
