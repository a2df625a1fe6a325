"""Files of a folder or of a repository by their names, so that the same rules serve both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ReadJson = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a folder or in a repository.

    Attributes:
        files: names with the folders before them; a folder that may be empty as its name and a slash.
        fetch_json: reads a file that holds a JSON object.
        read_tensors: reads the names of a file's tensors.
        has_names_alone: whether no header can be read before all is here, as in a repository. Then files of
            any name are not found, so that neither does a config.json tell that they are there.
    """

    files: frozenset[str]
    fetch_json: ReadJson
    read_tensors: Callable[[str], Collection[str]] = lambda name: ()
    has_names_alone: bool = True

    def has_folder(self, name: str) -> bool:
        """Whether there is such a folder."""
        return any(file.startswith(f"{name}/") for file in self.files)

    def names_in(self, folder: str) -> list[str]:
        """Names of the files that lie directly in a folder; in none for ""."""
        split = (file.rpartition("/") for file in self.files)
        return sorted(name for place, _, name in split if place == folder)

    def choose(self, folder: str, wanted: Iterable[str]) -> list[str]:
        """The wanted files of a folder that are there, in their order; "" for no folder."""
        names = (f"{folder}/{name}" if folder else name for name in wanted)
        return [name for name in names if name in self.files]

    def read_json(self, name: str) -> Mapping[str, Any]:
        """The content of a JSON file; empty where it is absent."""
        return self.fetch_json(name) if name in self.files else {}
