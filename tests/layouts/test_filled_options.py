"""Options with files filled in are listed for the user to choose from."""

from mlx_video.layouts.filled_options import list_options, name_transformers


def test_pairs_of_experts_are_named_by_two_options_and_others_by_one():
    names = ("a/wan_high_noise.gguf", "a/wan_low_noise.gguf", "b/other.gguf")
    values = {name: f"'my {name}'" for name in names}
    assert name_transformers(values) == [
        "--high-noise 'my a/wan_high_noise.gguf' --low-noise 'my a/wan_low_noise.gguf'"
    ]
    del values[names[0]]
    assert name_transformers(values) == [f"--transformer 'my {name}'" for name in names[1:]]


def test_of_many_options_the_first_are_listed_and_the_rest_counted():
    assert list_options(["--vae a", "--vae b"]) == "\n  --vae a\n  --vae b"
    assert list_options("abcd", most=2) == "\n  a\n  b\n  (2 more)"
    assert list_options("abc", most=2) == "\n  a\n  b\n  c"
