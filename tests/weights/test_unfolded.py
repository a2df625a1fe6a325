"""Kernels that a tool folded to fewer axes get their shapes back, whatever rows are read."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_video.config import WAN21_VAE, WAN22_VAE
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights.component_networks import as_original
from mlx_video.weights.names.transformer_names import transformer_tensors
from mlx_video.weights.names.vae_names import vae_tensors
from mlx_video.weights.stored.unfolded import TRANSFORMER_KERNELS, VAE_KERNELS, unfold
from tests.fixtures.diffusers_checkpoint import vae_name
from tests.fixtures.published_sizes import PUBLISHED_TRANSFORMERS
from tests.fixtures.weight_files import store, write_safetensors
from tests.weights.test_spellings import Headers, found

VAES = {"2.1": WAN21_VAE, "2.2": WAN22_VAE}
KERNEL = np.random.default_rng(0).standard_normal((8, 3, 1, 2, 2)).astype(np.float32)


def folded(shape):
    """As stable-diffusion.cpp writes it: four axes at most."""
    return (shape[0] * shape[1], *shape[2:]) if len(shape) == 5 else shape


def squeezed(shape):
    """As the quantizer of llama.cpp leaves it: no first axes of length one."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


@pytest.mark.parametrize("name", PUBLISHED_TRANSFORMERS)
def test_folded_published_transformers_have_their_own_shapes(name):
    official = transformer_tensors(PUBLISHED_TRANSFORMERS[name])
    stored = {tensor: squeezed(folded(shape)) for tensor, shape in official.items()}
    assert len(stored["patch_embedding.weight"]) == 4
    assert found(stored, "transformer") == official


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize("generation", VAES)
def test_folded_published_vaes_have_their_own_shapes_in_both_spellings(generation, prefix):
    official = vae_tensors(VAES[generation])
    stored = {prefix + tensor: folded(shape) for tensor, shape in official.items()}
    assert all(len(shape) < 5 for shape in stored.values())
    assert found(stored, "vae") == official
    theirs = {
        prefix + vae_name(tensor, VAES[generation].z_dim): folded(shape) for tensor, shape in official.items()
    }
    assert found(theirs, "vae") == official


def write_folded(path):
    tensors = {
        "patch_embedding.weight": KERNEL.reshape(24, 1, 2, 2),
        "patch_embedding.bias": KERNEL[:, 0, 0, 0, 0],
    }
    write_safetensors(path, [store(name, values) for name, values in tensors.items()])
    return path


def test_the_numbers_are_those_of_the_kernel(tmp_path):
    path = write_folded(tmp_path / "x.safetensors")
    with unfold(open_tensors(path), TRANSFORMER_KERNELS) as view:
        assert view.infos["patch_embedding.weight"].shape == KERNEL.shape
        assert view.file_of("patch_embedding.weight") == path
        assert np.array_equal(np.array(view.read("patch_embedding.weight")), KERNEL)
        assert np.array_equal(
            np.array(view.read("patch_embedding.bias", slice(1, 3))), KERNEL[1:3, 0, 0, 0, 0]
        )
        with pytest.raises(ValueError, match="must be consecutive"):
            view.read("patch_embedding.weight", slice(0, 8, 2))


@given(start=st.integers(0, 9), count=st.integers(0, 9))
def test_any_rows_are_those_of_the_whole(tmp_path_factory, start, count):
    path = write_folded(tmp_path_factory.mktemp("f") / "x.safetensors")
    with unfold(open_tensors(path), TRANSFORMER_KERNELS) as view:
        rows = slice(start, start + count)
        assert mx.array_equal(view.read("patch_embedding.weight", rows), mx.array(KERNEL[rows]))


def test_only_the_rows_asked_for_are_read():
    class Counting(Headers):
        def read(self, name, rows=None):
            asked.append(rows)
            return mx.zeros((rows.stop - rows.start, 1, 2, 2))

    asked = []
    shapes = {"patch_embedding.weight": (24, 1, 2, 2), "patch_embedding.bias": (8,)}
    unfold(Counting(shapes), TRANSFORMER_KERNELS).read("patch_embedding.weight", slice(2, 4))
    assert asked == [slice(6, 12)]


@pytest.mark.parametrize(
    "stored",
    [(3, 8, 2, 2), (8, 3, 2, 2), (2, 2, 1, 24), (25, 1, 2, 2), (0, 1, 2, 2), (96, 1), (96,), (8, 3, 2, 1, 2)],
)
def test_what_is_folded_in_another_way_keeps_its_shape(stored):
    """Axes in another order hold other numbers in a row."""
    source = Headers({"patch_embedding.weight": stored, "patch_embedding.bias": (8,)})
    assert unfold(source, TRANSFORMER_KERNELS) is source


def test_a_folded_kernel_without_its_bias_is_refused():
    shapes = {name: folded(shape) for name, shape in vae_tensors(WAN21_VAE).items() if name != "conv2.bias"}
    message = (
        r"headers: conv2.weight is \[256, 1, 1, 1\], folded to four axes, and the bias that tells its ch"
    )
    with pytest.raises(CheckpointError, match=message):
        as_original(Headers(shapes), "vae")


def test_files_that_are_not_folded_are_left_as_they_are():
    for kernels, tensors in ((VAE_KERNELS, vae_tensors(WAN22_VAE)), (VAE_KERNELS, vae_tensors(WAN21_VAE))):
        source = Headers(tensors)
        assert unfold(source, kernels) is source
