"""Tensors of a .pth file without torch and without running the pickle's code.

torch.save makes a zip of stored members below one folder: `data.pkl` describes the tensors, `data/<key>`
holds the bytes of one storage each.

Source: pytorch torch/serialization.py, _save.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from mlx_video.errors import CheckpointError
from mlx_video.files.file_bytes import describe_bytes, open_for_reading, read_at, size_of
from mlx_video.formats.file_kind import recognise, refusal
from mlx_video.formats.tensor_file import Placement, TensorFile
from mlx_video.formats.tensor_info import DTYPES, TensorInfo
from mlx_video.formats.torch_description import StoredTensor, read_description
from mlx_video.limits import LARGEST_HEADER_BYTES, MOST_TENSORS

_LOCAL_HEADER_BYTES = 30
_ENCRYPTED, _UTF8 = 1, 0x800  # bits of a member's flags


class TorchArchive(TensorFile):
    """A `TensorSource` over one torch zip archive.

    Args:
        path: the .pth, .pt or .ckpt file.

    Raises:
        CheckpointError: the file is truncated or damaged, is no torch archive, is in the old or the
            big-endian form, or holds other Python objects than tensors in dictionaries.
    """

    def __init__(self, path: Path) -> None:
        kind = recognise(path)
        if kind != "zip":
            raise refusal(path, kind)
        members = _Members(path)
        tensors = read_description(path, members.read("data.pkl"))
        super().__init__(path, [_locate(members, name, tensor) for name, tensor in tensors.items()])


class _Members:
    """The members of the archive, by their names below its one top folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._infos = _read_directory(path)
        if "data.pkl" not in self._infos:
            raise CheckpointError(
                f"{path}: is a zip archive without data.pkl, so torch.save did not make it. "
                "Unpack it and give the file inside."
            )
        if "byteorder" in self._infos and self.read("byteorder").strip() != b"little":
            raise CheckpointError(
                f"{path}: was saved on a big-endian machine. Load it with torch and save it on this one."
            )

    def size(self, name: str) -> int | None:
        """Bytes of a member; None if there is none of this name."""
        return self._infos[name].file_size if name in self._infos else None

    def position(self, name: str) -> int:
        """Byte of the file where a member's data begins."""
        info = self._infos[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise CheckpointError(
                f"{self.path}: {name} is compressed or encrypted, so it cannot be read in parts. "
                "Load the file with torch and save it again with torch.save."
            )
        with open_for_reading(self.path) as file:
            room = size_of(file) - info.header_offset - _LOCAL_HEADER_BYTES - info.file_size
            local = b""
            if room >= 0 and info.header_offset >= 0:
                local = read_at(file, self.path, info.header_offset, _LOCAL_HEADER_BYTES).tobytes()
            name_bytes = int.from_bytes(local[26:28], "little")
            # The extra field of the local header differs in length from that of the directory.
            lengths = name_bytes + int.from_bytes(local[28:30], "little")
            if local[:4] != b"PK\x03\x04" or lengths > room:
                raise _incomplete(self.path, f"{name} does not lie where the zip directory says")
            own_name = read_at(file, self.path, info.header_offset + _LOCAL_HEADER_BYTES, name_bytes)
        if own_name.tobytes() != info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437"):
            raise _incomplete(self.path, f"another member lies where {name} should")
        return info.header_offset + _LOCAL_HEADER_BYTES + lengths

    def read(self, name: str) -> bytes:
        """The bytes of a small member."""
        nbytes = self._infos[name].file_size
        if nbytes > LARGEST_HEADER_BYTES:
            raise CheckpointError(
                f"{self.path}: {name} has {describe_bytes(nbytes)}, more than descriptions of tensors take. "
                "Use a safetensors version."
            )
        start = self.position(name)
        with open_for_reading(self.path) as file:
            # Its checksum is not compared: torch can be told to leave checksums out, and then writes others.
            # Source: pytorch torch/serialization.py, set_crc32_options.
            return read_at(file, self.path, start, nbytes).tobytes()


def _incomplete(path: Path, what: str) -> CheckpointError:
    size = describe_bytes(path.stat().st_size)
    return CheckpointError(
        f"{path}: {size}, {what}: the download is incomplete or damaged. Download it again."
    )


def _read_directory(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a damaged directory can fail in any way
        raise _incomplete(path, "zip directory missing") from error
    if len(entries) > MOST_TENSORS:
        raise CheckpointError(
            f"{path}: has {len(entries):,} members, at most {MOST_TENSORS:,} are read. Is it another file?"
        )
    top = next((e.filename[: -len("data.pkl")] for e in entries if e.filename.endswith("/data.pkl")), "")
    members = {e.filename.removeprefix(top): e for e in entries if e.filename.startswith(top)}
    if len(members) < sum(e.filename.startswith(top) for e in entries):
        raise _incomplete(path, "two members of one name")
    return members


def _locate(members: _Members, name: str, tensor: StoredTensor) -> Placement:
    storage = tensor.storage
    item_bytes = DTYPES[storage.dtype].size
    expected, actual = storage.length * item_bytes, members.size(f"data/{storage.key}")
    if actual != expected:
        found = "is absent" if actual is None else f"has {actual:,} bytes"
        raise _incomplete(
            members.path, f"storage data/{storage.key} of {name} {found}, {expected:,} bytes are promised"
        )
    position = members.position(f"data/{storage.key}") + tensor.offset * item_bytes
    return Placement(TensorInfo(name, tensor.shape, storage.dtype), position, tensor.strides)
