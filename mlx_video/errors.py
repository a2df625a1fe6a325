"""The exceptions that a user of mlx-video can meet."""

from __future__ import annotations

from mlx_video.quoting import printable


class MLXVideoError(Exception):
    """Base of every error with a message meant for the user: what happened, where, what to do.

    Args:
        message: may quote what a file or a user spells; control codes in it are written out, and the middle
            of a very long word left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckpointError(MLXVideoError):
    """A weight file or a model folder is missing, damaged, or not what it should be."""


class UnknownFormatError(CheckpointError):
    """A file is in a form in which no weights of these models come; others keep such files."""


class BusyFolderError(CheckpointError):
    """Another run is writing the folder; when it is done, or has died, the folder can be used."""


class MissingPartError(CheckpointError):
    """A checkpoint or a model folder lacks a part; what is there may be sound."""


class ConfigError(MLXVideoError):
    """A config.json cannot be read, or contradicts the weights beside it."""


class BatchError(MLXVideoError):
    """Some videos of a list were not made; the errors of each were told when they occurred."""


class RequestError(MLXVideoError):
    """An option has a value that cannot be honoured.

    Args:
        field: the option's name as a parameter (``num_frames``); the command line shows it as a flag.
        message: the rest of the sentence, without the option's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = printable(message)


class AdapterError(MLXVideoError):
    """A LoRA file is damaged or does not fit the model."""


class MemoryBudgetError(MLXVideoError):
    """A run needs more memory than the machine or the user's limit allows."""


class DatasetError(MLXVideoError):
    """A dataset to train on cannot be read, or does not fit the model; the message names the file."""


class MediaError(MLXVideoError):
    """An image, video or sound file cannot be read or written."""


class Cancelled(MLXVideoError):
    """A call was ended from outside, as its caller asked; the message says how to go on."""


class DeviceError(MLXVideoError):
    """The GPU gives wrong numbers, or gave up on its work."""


class NonFiniteError(MLXVideoError):
    """Latents or frames stopped being finite numbers; going on would end in a black video."""


class TrainingError(MLXVideoError):
    """A training cannot go on: its numbers are no longer finite, or nothing is learned."""


class ClusterError(MLXVideoError):
    """A machine of several cannot be reached, was lost, or holds something else than the others."""
