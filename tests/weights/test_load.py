import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.config import QuantizationConfig
from mlx_video.errors import CheckpointError, ConfigError
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights.load import load_module

WIDTH = 64


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = mx.zeros(WIDTH)


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm = Scale()


class Net(nn.Module):
    """Two equal halves, like an autoencoder's."""

    def __init__(self):
        super().__init__()
        self.encoder = Half()
        self.decoder = Half()


def arrays_of(*halves):
    """The numbers of a file that fits `Net`, in float32."""
    made = {}
    for index, half in enumerate(halves):
        keys = mx.random.split(mx.random.key(index), 3)
        made[f"{half}.proj.weight"] = mx.random.normal((WIDTH, WIDTH), key=keys[0])
        made[f"{half}.proj.bias"] = mx.random.normal((WIDTH,), key=keys[1])
        made[f"{half}.norm.gamma"] = mx.random.normal((WIDTH, 1, 1, 1), key=keys[2])
    return made


def quantized(arrays, path, bits, group_size):
    parts = mx.quantize(arrays[f"{path}.weight"], group_size=group_size, bits=bits)
    names = (f"{path}.weight", f"{path}.scales", f"{path}.biases")
    return arrays | dict(zip(names, parts, strict=True))


def load(tmp_path, arrays, module=None, **options):
    module = module or Net()
    mx.save_safetensors(str(tmp_path / "net.safetensors"), arrays)
    with open_tensors(tmp_path / "net.safetensors") as source:
        load_module(module, source, **options)
    return module


def test_a_file_that_fits_fills_every_parameter(tmp_path):
    arrays = arrays_of("encoder", "decoder")
    net = load(tmp_path, arrays)
    for half in ("encoder", "decoder"):
        assert mx.array_equal(net[half].proj.weight, arrays[f"{half}.proj.weight"])
        assert mx.array_equal(net[half].proj.bias, arrays[f"{half}.proj.bias"])


def test_axes_of_length_one_are_taken_out(tmp_path):
    arrays = arrays_of("encoder", "decoder")
    gamma = load(tmp_path, arrays).decoder.norm.gamma
    assert mx.array_equal(gamma, arrays["decoder.norm.gamma"].reshape(WIDTH))


def test_numbers_are_cast_on_request_and_kept_otherwise(tmp_path):
    arrays = {name: array.astype(mx.float16) for name, array in arrays_of("encoder", "decoder").items()}
    assert load(tmp_path, arrays).encoder.proj.weight.dtype == mx.float16
    net = load(tmp_path, arrays, dtype=mx.float32)
    assert net.encoder.proj.weight.dtype == mx.float32
    assert mx.array_equal(net.encoder.proj.weight, arrays["encoder.proj.weight"].astype(mx.float32))


def test_stray_rotary_tables_are_dropped_and_other_strays_are_not(tmp_path):
    load(tmp_path, arrays_of("encoder", "decoder") | {"freqs": mx.zeros((4, 2))})
    message = r"net.safetensors: .*1 unexpected, first mean \[4\].*convert it again"
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, arrays_of("encoder", "decoder") | {"mean": mx.zeros(4)})


def test_a_missing_tensor_is_named_with_its_shape(tmp_path):
    arrays = arrays_of("encoder", "decoder")
    del arrays["decoder.proj.bias"]
    with pytest.raises(
        CheckpointError, match=r"net.safetensors: .*1 missing, first decoder.proj.bias \[64\]"
    ):
        load(tmp_path, arrays)


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path):
    arrays = arrays_of("encoder", "decoder") | {"encoder.proj.weight": mx.zeros((WIDTH, 32))}
    with pytest.raises(
        CheckpointError, match=r"encoder.proj.weight is \[64, 32\], the model takes \[64, 64\]"
    ):
        load(tmp_path, arrays)


def test_a_failed_load_leaves_the_module_as_it_was(tmp_path):
    net = Net()
    before = mx.array(net.encoder.proj.weight)
    with pytest.raises(CheckpointError):
        load(tmp_path, arrays_of("encoder"), net)
    assert mx.array_equal(net.encoder.proj.weight, before)


def test_one_half_loads_alone_from_a_file_of_both_and_from_its_own(tmp_path):
    arrays = arrays_of("encoder", "decoder")
    for stored in (arrays, {name: array for name, array in arrays.items() if name.startswith("decoder.")}):
        net = Net()
        untouched = mx.array(net.encoder.proj.weight)
        load(tmp_path, stored, net, prefix_filter=("decoder.",))
        assert mx.array_equal(net.decoder.proj.weight, arrays["decoder.proj.weight"])
        assert mx.array_equal(net.encoder.proj.weight, untouched)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 64), (8, 32), (4, 32)])
def test_layers_with_scales_become_quantized_layers_of_the_stored_kind(tmp_path, bits, group_size):
    dense = arrays_of("encoder", "decoder")
    stored = quantized(dense, "decoder.proj", bits, group_size)
    net = load(tmp_path, stored, quantization=QuantizationConfig(bits, group_size))
    layer = net.decoder.proj
    assert isinstance(layer, nn.QuantizedLinear)
    assert (layer.bits, layer.group_size) == (bits, group_size)
    assert isinstance(net.encoder.proj, nn.Linear)
    x = mx.random.normal((3, WIDTH))
    unpacked = mx.dequantize(
        stored["decoder.proj.weight"], stored["decoder.proj.scales"], stored["decoder.proj.biases"],
        group_size=group_size, bits=bits,
    )  # fmt: skip
    expected = x @ unpacked.T + dense["decoder.proj.bias"]
    # float32 sums of 64 products in another order
    assert mx.allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_layers_of_different_bits_load_side_by_side(tmp_path):
    stored = quantized(arrays_of("encoder", "decoder"), "decoder.proj", 4, 64)
    net = load(tmp_path, quantized(stored, "encoder.proj", 8, 32))
    assert (net.decoder.proj.bits, net.encoder.proj.bits) == (4, 8)


def test_bits_that_contradict_the_config_are_refused_with_both(tmp_path):
    stored = quantized(arrays_of("encoder", "decoder"), "decoder.proj", 8, 64)
    message = (
        r"config.json says 4 bits, group 64; decoder.proj.weight \[64, 16\] in net.safetensors is 8 bits"
    )
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, stored, quantization=QuantizationConfig(4, 64))
    with pytest.raises(ConfigError, match=r"config.json says 4 bits.* holds no quantized layer"):
        load(tmp_path, arrays_of("encoder", "decoder"), quantization=QuantizationConfig(4, 64))


def test_scales_where_the_model_has_no_layer_are_refused(tmp_path):
    stray = {"decoder.norm.scales": mx.zeros((WIDTH, 1))}
    with pytest.raises(CheckpointError, match="decoder.norm is stored quantized, but the model has no layer"):
        load(tmp_path, arrays_of("encoder", "decoder") | stray)


def test_loading_takes_the_memory_of_the_module_and_one_tensor(tmp_path):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(512, 512, bias=False) for _ in range(12)]

    tensors = {f"layers.{n}.weight": mx.array(np.full((512, 512), n, np.float32)) for n in range(12)}
    mx.save_safetensors(str(tmp_path / "wide.safetensors"), tensors)
    del tensors
    module = Wide()
    with open_tensors(tmp_path / "wide.safetensors") as source:
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        load_module(module, source, dtype=mx.bfloat16)
        peak = mx.get_peak_memory() - before
    layer_bytes = 512 * 512 * 2
    # Twelve layers in bfloat16, and for a moment one in float32; the random initial weights are never made.
    assert peak <= 12 * layer_bytes + 2 * 2 * layer_bytes
    assert mx.all(module.layers[11].weight == 11).item()


def test_the_largest_tensors_are_read_while_little_is_loaded(tmp_path, monkeypatch):
    mx.save_safetensors(str(tmp_path / "net.safetensors"), arrays_of("encoder", "decoder"))
    with open_tensors(tmp_path / "net.safetensors") as source:
        read, sizes = source.read, []
        monkeypatch.setattr(
            type(source), "read", lambda self, name: sizes.append(source.infos[name].nbytes) or read(name)
        )
        load_module(Net(), source)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 2
