"""Kinds of an option's value: what a request holds, and what callers and the command line write for it.

A field's type names its kind: `int`, `float`, `str`, `bool` and `Literal` by themselves, all others by one of
the annotated types here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mlx_video.addresses import (
    AddressError,
    expand_home,
    local_path,
    local_path_or_page,
    remote_address,
    written_address,
)
from mlx_video.request.adapters import LoraChoice, parse_adapter, path_or_repository, read_adapter_choices

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


TERMINAL = "terminal"
"""In place of a preview's file: pictures among the lines of the terminal."""


def _as_is(value: Any) -> Any:
    return value


def _read_as_is(name: str, value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What values an option takes.

    Attributes:
        holds: whether a value is what a request holds.
        must_be: what it must be, for the error about another.
        python_type: of what callers in Python write; as text where the type is not known here, or is long.
        python_words: what they write, where the type does not say it all.
        parse: the text behind a flag → value; raises ValueError. With `repeats` it takes a list of texts.
        words: of a flag that may stand several times, what each text behind it is called; the first must
            stand.
        read: (name of the option, what a caller in Python wrote) → value.
        settle: a request's value → the same with paths in place of `~` and of addresses of files here; raises
            AddressError for addresses that are not read.
    """

    holds: Callable[[Any], bool]
    must_be: str
    python_type: Any
    parse: Callable[[Any], Any] = _as_is
    python_words: str = ""
    words: tuple[str, ...] = ()
    read: Callable[[str, Any], Any] = _read_as_is
    settle: Callable[[Any], Any] = _as_is

    @property
    def repeats(self) -> bool:
        """Whether a flag may stand several times."""
        return bool(self.words)


def _is_switch(value: object) -> bool:
    # 0, 1 and numpy's truth values too; arrays are not hashable, and not truth values.
    return type(value).__hash__ is not None and value in (True, False)


def _is_scales(value: Any) -> bool:
    scales = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    return all(isinstance(scale, Real) and 0 <= float(scale) < float("inf") for scale in scales)


def _is_image(value: object) -> bool:
    # Pillow images and numpy arrays both offer themselves as arrays; asking the type copies no pixels.
    return isinstance(value, Path) or hasattr(type(value), "__array_interface__")


def _is_pictures(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_is_image, value))


def _is_scale(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < float("inf")


def _is_layer_scales(value: object) -> bool:
    return bool(value) and all(map(_is_scale, value)) if isinstance(value, tuple) else _is_scale(value)


def _is_video(value: object) -> bool:
    if isinstance(value, Path) or hasattr(type(value), "__array_interface__"):
        return True
    # A `Video` or a `SourceVideo` of ours, which lie in a higher room, or pictures one by one.
    is_own = hasattr(value, "fps") and (hasattr(value, "frames") or hasattr(value, "read"))
    return is_own or isinstance(value, list | tuple)


def _is_adapters(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(choice, LoraChoice) for choice in value)


def parse_whole_number(text: str) -> int:
    """An integer.

    Raises:
        ValueError: the text is none.
    """
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no whole number, such as 4") from error


def parse_number(text: str) -> float:
    """An integer or a decimal fraction.

    Raises:
        ValueError: the text is neither.
    """
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no number, such as 0.5") from error


def parse_guide_scale(text: str) -> float | tuple[float, float]:
    """One number, or two as `low,high`.

    Raises:
        ValueError: anything else.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise ValueError(f"{text!r} is neither a number nor two numbers as low,high")


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        ValueError: anything else.
    """
    return tuple(parse_number(part) for part in text.split(","))


def parse_layer_scales(text: str) -> float | tuple[float, ...]:
    """One number, or several with commas between them.

    Raises:
        ValueError: anything else.
    """
    numbers = parse_numbers(text)
    return numbers[0] if len(numbers) == 1 else numbers


def parse_whole_numbers(text: str) -> tuple[int, ...]:
    """Integers with commas between them.

    Raises:
        ValueError: anything else.
    """
    return tuple(parse_whole_number(part) for part in text.split(","))


def _is_tuple_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(isinstance(part, kind) for part in value)


def _read_tuple(name: str, value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read_path(name: str, value: Any) -> Any:
    return (
        Path(value) if isinstance(value, str) and value else value
    )  # an empty text would be the folder here


def _parse_preview(text: str) -> Path | str | None:
    return {TERMINAL: TERMINAL, "off": None}.get(text, expand_home(text))


def _read_preview(value: Any) -> Any:
    """What stands on the command line, or a truth value."""
    if isinstance(value, str):
        value = _parse_preview(value)
    return None if value is False else value


def _read_pictures(name: str, value: Any) -> Any:
    pictures = value if isinstance(value, list | tuple) else (value,)
    return tuple(_read_path(name, picture) for picture in pictures)


def _read_path_or_repository(name: str, value: Any) -> Any:
    return path_or_repository(value) if isinstance(value, str | Path) else value


def _settle_image(value: Any) -> Any:
    return local_path(value) if isinstance(value, Path) else value


def _settle_pictures(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(_settle_image, value))


def _settle_video(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(local_path(each) if isinstance(each, str | Path) else each for each in value)
    return _settle_image(value)


def _settle_result(value: Path) -> Path:
    expand_home(value)  # what is no path of this system is told of as such
    try:
        return local_path(value)
    except AddressError as error:
        told = f"{written_address(str(value))}: nothing is written to an address. Give a path here."
        raise AddressError(told) from error


def _settle_uploaded(value: Path) -> Path:
    return _settle_result(value) if remote_address(value) is None else value


def _settle_adapters(choices: tuple[LoraChoice, ...]) -> tuple[LoraChoice, ...]:
    return tuple(replace(choice, path=local_path_or_page(choice.path)) for choice in choices)


def _path_kind(
    settle: Callable[[Path], Path],
    parse: Callable[[str], Path] = expand_home,
    read: Callable[[str, Any], Any] = _read_path,
) -> Kind:
    return Kind(
        lambda value: isinstance(value, Path),
        "a path (pathlib.Path)",
        str | Path,
        parse=parse,
        read=read,
        settle=settle,
    )


TEXT = Kind(lambda value: isinstance(value, str), "a text", str)
WHOLE = Kind(lambda value: isinstance(value, Integral), "a whole number", int, parse_whole_number)
NUMBER = Kind(lambda value: isinstance(value, Real), "a number", float, parse_number)
SWITCH = Kind(_is_switch, "True or False", bool)
SCALES = Kind(
    _is_scales,
    "one number of at least 0, or two as low,high. The models use 1 to 6",
    float | tuple[float, float],
    parse_guide_scale,
    read=_read_tuple,
)
NUMBERS = Kind(
    _is_tuple_of(Real),
    "numbers, several with commas between them",
    "Sequence[float]",
    parse_numbers,
    python_words="a list or tuple of numbers",
    read=_read_tuple,
)
WHOLE_NUMBERS = Kind(
    _is_tuple_of(Integral),
    "whole numbers, several with commas between them",
    "Sequence[int]",
    parse_whole_numbers,
    python_words="a list or tuple of whole numbers",
    read=_read_tuple,
)
FILE = _path_kind(local_path)
"""A file that is read, on this machine."""
RESULT = _path_kind(_settle_result)
"""A file or folder that is written."""
UPLOADED = _path_kind(_settle_uploaded)
"""A file that is written, here or to an address that fsspec knows."""
PATH_OR_REPOSITORY = _path_kind(local_path_or_page, path_or_repository, _read_path_or_repository)
"""A file or folder here, or in a repository on the Hub."""
IMAGE = Kind(
    _is_image,
    "a path (pathlib.Path), a Pillow image or a numpy array",
    "str | Path | PIL.Image.Image | numpy.ndarray",
    parse=expand_home,
    python_words="a path, a Pillow image or an array",
    read=_read_path,
    settle=_settle_image,
)
PICTURES = Kind(
    _is_pictures,
    "a tuple of paths (pathlib.Path), Pillow images or numpy arrays",
    "Sequence[str | Path | PIL.Image.Image | numpy.ndarray]",
    parse=lambda texts: expand_home(texts[0]),
    python_words="a list of paths, Pillow images or arrays",
    words=("FILE",),
    read=_read_pictures,
    settle=_settle_pictures,
)
LAYER_SCALES = Kind(
    _is_layer_scales,
    "one number of at least 0, or one for each layer",
    "float | Sequence[float]",
    parse_layer_scales,
    read=_read_tuple,
)
VIDEO = Kind(
    _is_video,
    "a path (pathlib.Path), an array [F, H, W, 3], a Video or a list of pictures",
    "str | Path | Video | numpy.ndarray | Sequence[str | Path | PIL.Image.Image | numpy.ndarray]",
    parse=expand_home,
    python_words="a video file, a folder of pictures, an array `[F, H, W, 3]`, a `Video` or a list of "
    "pictures",
    read=_read_path,
    settle=_settle_video,
)
PREVIEW = Kind(
    lambda value: value is True or value == TERMINAL or isinstance(value, Path),
    "a path (pathlib.Path), 'terminal' or True",
    bool | str | Path,
    parse=_parse_preview,
    python_words="a path; `True` for events alone",
    read=lambda name, value: _read_preview(value),
    settle=lambda value: _settle_result(value) if isinstance(value, Path) else value,
)
"""Where previews are shown."""
ADAPTERS = Kind(
    _is_adapters,
    "a tuple of LoraChoice(path, strength)",
    "Iterable[str | Path | tuple[str | Path, float] | LoraChoice]",
    parse=parse_adapter,
    python_words="a list of paths, of (path, strength) or of `LoraChoice`",
    words=("PATH", "STRENGTH"),
    read=read_adapter_choices,
    settle=_settle_adapters,
)

BY_TYPE = {str: TEXT, int: WHOLE, float: NUMBER, bool: SWITCH}

ReadPath = Annotated[Path, FILE]
WrittenPath = Annotated[Path, RESULT]
Preview = Annotated[Path | str | bool, PREVIEW]
UploadedPath = Annotated[Path, UPLOADED]
Place = Annotated[Path, PATH_OR_REPOSITORY]
GuideScale = Annotated[float | tuple[float, float], SCALES]
Numbers = Annotated[tuple[float, ...], NUMBERS]
WholeNumbers = Annotated[tuple[int, ...], WHOLE_NUMBERS]
LayerScales = Annotated[float | tuple[float, ...], LAYER_SCALES]
Adapters = Annotated[tuple[LoraChoice, ...], ADAPTERS]
if TYPE_CHECKING:
    ImageSource = Path | Image.Image | np.ndarray
    VideoSource = Any
    Pictures = tuple[ImageSource, ...]
else:
    ImageSource = Annotated[Any, IMAGE]
    VideoSource = Annotated[Any, VIDEO]
    Pictures = Annotated[tuple, PICTURES]
