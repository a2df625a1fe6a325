"""A user's files in, examples out: datasets read, inspected, encoded once into a cache, and batched.

Knows how a run conditions a model, and uses that; knows no loss, no optimizer and no command.

`read_dataset` takes musubi-tuner's TOML, DiffSynth-Studio's CSV or a bare folder, and opens no clip.
`inspect_dataset` tells what a training would see of it. `cache_dataset` encodes what the cache lacks and
gives a `CachedDataset`, which is what a training learns from (`training.example.Examples`). `prepare_dataset`
does of these what a command's options ask for.
"""

from mlx_video.training.data.cache_pass import cache_dataset
from mlx_video.training.data.cached_dataset import CachedDataset
from mlx_video.training.data.clips import Dataset
from mlx_video.training.data.inspect_dataset import inspect_dataset
from mlx_video.training.data.prepare_dataset import prepare_dataset
from mlx_video.training.data.read_dataset import read_dataset

__all__ = ["CachedDataset", "Dataset", "cache_dataset", "inspect_dataset", "prepare_dataset", "read_dataset"]
