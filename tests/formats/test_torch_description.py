import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from mlx_video.errors import CheckpointError
from mlx_video.formats import torch_description
from mlx_video.formats.torch_description import read_description
from tests.formats.torch_archive import Call, Global, Storage, foreign_pickle, tensor, whole_tensor

ONE = whole_tensor("0", "F32", np.float32([1]))
TWO = whole_tensor("1", "F32", np.float32([2]))


def describe(content):
    return read_description(Path("x.pth"), foreign_pickle(content))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._utils", "_rebuild_tensor_v3.__globals__"),
        ("torch._utils", "_rebuild_wrapper_subclass"),
        ("collections", "namedtuple"),
    ],
)
def test_a_name_outside_the_list_is_refused_and_nothing_runs(tmp_path, module, name):
    victim = tmp_path / "made_by_pickle"
    content = {"x": ONE, "y": Call(Global(module, name), (f"touch {victim}",))}
    with pytest.raises(CheckpointError) as refused:
        describe(content)
    assert str(refused.value) == (
        f"x.pth: contains Python objects ({module}.{name}) besides tensors; refused, because loading them "
        "would run code from the file. Use a safetensors version."
    )
    assert not victim.exists()


def test_a_pickle_made_with_reduce_is_refused_and_not_run(tmp_path):
    victim = tmp_path / "made_by_pickle"

    class Malicious:
        def __reduce__(self):
            return (Path.touch, (victim,))

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(CheckpointError, match="refused"):
            read_description(Path("x.pth"), pickle.dumps({"x": Malicious()}, protocol))
    assert not victim.exists()


def test_a_pickle_cannot_alter_what_it_names():
    """BUILD sets attributes of any object that allows it; a later file would meet them."""
    for name in torch_description._ALLOWED:
        for state in ({"dtype": "I64"}, (None, {"dtype": "I64", "build": OrderedDict, "x": 1}), ["I64"]):
            before = list(torch_description._ALLOWED.values())
            text = pickle.PROTO + b"\x02" + pickle.GLOBAL + "{}\n{}\n".format(*name).encode()
            text += pickle.dumps(state, 2)[2:-1] + pickle.BUILD + pickle.STOP
            with pytest.raises(CheckpointError, match="damaged"):
                read_description(Path("x.pth"), text)
            assert list(torch_description._ALLOWED.values()) == before
    assert not hasattr(OrderedDict, "x")


def test_a_huge_memo_number_reserves_no_memory():
    text = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f" + pickle.STOP
    with pytest.raises(CheckpointError, match="a dict of 0"):
        read_description(Path("x.pth"), text)


@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model_state", "model", "module", "generator", "generator_ema"]
)
def test_each_wrapper_of_training_scripts_is_opened(wrapper):
    assert set(describe({wrapper: {"x": ONE}, "epoch": 7, "note": "text", "optimizer": {"s": TWO}})) == {"x"}


def test_wrappers_may_be_nested():
    assert set(describe({"state_dict": {"model": {"x": ONE}}})) == {"x"}


def test_averaged_weights_are_preferred():
    described = describe({"generator": {"x": ONE}, "generator_ema": {"x": TWO}})
    assert described["x"].storage.key == "1"


def test_two_models_in_one_file_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"holds several models \(state_dict, model\)"):
        describe({"state_dict": {"x": ONE}, "model": {"x": TWO}})


def test_an_empty_wrapper_beside_a_full_one_does_not_count():
    assert set(describe({"state_dict": {}, "model": {"x": ONE}})) == {"x"}


def test_plain_numbers_and_texts_among_the_tensors_are_left_out():
    assert set(describe({"x": ONE, "version": 2, "made_by": "trainer", "extra": None, "list": []})) == {"x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": ONE, "inner": {"y": TWO}}, "'inner' lies among the tensors but is a dict of 1 \\(y\\)"),
        ({"x": ONE, 3: TWO}, "3 lies among the tensors"),
        (ONE, "no dictionary of tensors but a single tensor"),
        ([ONE], "no dictionary of tensors but a list of 1"),
        ({"epoch": 1, "weights": {"x": ONE}}, r"but a dict of 2 \(epoch, weights\)"),
        (7, "no dictionary of tensors but a int"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_described(content, message):
    with pytest.raises(CheckpointError, match=message):
        describe(content)


def test_a_dictionary_inside_itself_ends():
    text = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.BINPUT + b"\0"
    text += pickle.BINUNICODE + b"\x05\0\0\0model" + pickle.BINGET + b"\0" + pickle.SETITEM + pickle.STOP
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        read_description(Path("x.pth"), text)


STORAGE = Storage("0", "F32", np.zeros(10, np.float32))


@pytest.mark.parametrize(
    "view",
    [
        tensor(STORAGE, (11,)),
        tensor(STORAGE, (5,), offset=6),
        tensor(STORAGE, (2, 2), (10, 1)),
        tensor(STORAGE, (2,), (-1,), offset=5),
        tensor(STORAGE, (-2,), (1,)),
        tensor(STORAGE, (2,), (1, 1)),
        tensor(STORAGE, (2,), offset=-1),
        tensor(STORAGE, (2.0,), (1,)),
        tensor("no storage", (2,)),
        tensor(Storage("0", "F32", np.zeros(1, np.float32), length=-1), (1,)),
        Call(Global("torch._utils", "_rebuild_parameter"), (3, True)),
    ],
)
def test_a_view_that_leaves_its_storage_is_refused(view):
    with pytest.raises(CheckpointError, match="damaged"):
        describe({"x": view})
