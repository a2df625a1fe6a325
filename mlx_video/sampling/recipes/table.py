"""The recipes by name, and the recipe of a model by what its files are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from mlx_video.errors import ConfigError, RequestError
from mlx_video.sampling.recipe import Preset
from mlx_video.sampling.recipes.bernini import BERNINI
from mlx_video.sampling.recipes.dmd import CAUSVID, FASTMETAL, FASTWAN, SELF_FORCING
from mlx_video.sampling.recipes.krea import KREA
from mlx_video.sampling.recipes.lightx2v import LIGHTNING, LIGHTX2V, MEANFLOW
from mlx_video.sampling.recipes.longcat import LONGCAT, LONGCAT_DISTILLED, LONGCAT_REFINE
from mlx_video.sampling.recipes.official import OFFICIAL
from mlx_video.sampling.recipes.student import STUDENT

# Names are tried in this order: of "Wan2.2-Lightning-4steps" the maker is told, not the number of steps.
_ALL = (
    OFFICIAL,
    FASTWAN,
    FASTMETAL,
    LIGHTNING,
    MEANFLOW,
    CAUSVID,
    SELF_FORCING,
    LIGHTX2V,
    KREA,
    LONGCAT,
    LONGCAT_DISTILLED,
    LONGCAT_REFINE,
    BERNINI,
    STUDENT,
)

RECIPES: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})


def find_recipe(name: str, *, where: str = "") -> Preset:
    """The recipe of that name.

    Args:
        name: of the recipe.
        where: the config.json that has it; "" for the user.

    Raises:
        RequestError, ConfigError: there is none.
    """
    if name in RECIPES:
        return RECIPES[name]
    known = f"this version knows {', '.join(RECIPES)}"
    if where:
        raise ConfigError(f"{where}: 'recipe' is {name!r}; {known}. Update mlx-video, or correct the key.")
    raise RequestError("recipe", f"{name}: {known}.")


def recognise_recipe(names: Iterable[str]) -> Preset | None:
    """The recipe of distilled models of which one of these is the name; None for other names."""
    texts = [*names]
    for preset in RECIPES.values():
        if preset.names and any(map(preset.names.search, texts)):
            return preset
    return None
