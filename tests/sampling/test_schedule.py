import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_video.errors import RequestError
from mlx_video.sampling.schedule import build_schedule

# Tables printed by the official schedulers (Wan2.1 wan/utils/fm_solvers_unipc.py and fm_solvers.py).
UNIPC_SIGMAS_40_12 = """
0.9999166 0.9977826 0.9955462 0.9931996 0.9907347 0.9881422 0.9854119 0.9825327 0.9794918 0.9762754 0.9728677
0.9692512 0.9654062 0.9613101 0.9569377 0.9522599 0.9472436 0.9418508 0.9360373 0.9297519 0.9229348 0.9155154
0.9074104 0.8985199 0.8887241 0.8778773 0.8658007 0.8522726 0.8370144 0.8196719 0.7997865 0.7767547 0.7497655
0.7177031 0.6789888 0.6313128 0.5711563 0.4928803 0.3868470 0.2351095 0
"""
UNIPC_TIMESTEPS = {
    (4, 5): """
        999 937 833 624
    """,
    (4, 12): """
        999 972 922 799
    """,
    (40, 12): """
        999 997 995 993 990 988 985 982 979 976 972 969 965 961 956 952 947 941 936 929 922 915 907
        898 888 877 865 852 837 819 799 776 749 717 678 631 571 492 386 235
    """,
    (50, 5): """
        999 995 991 987 982 978 973 968 963 957 952 946 940 934 927 920 913 906 898 890 882 873 863
        854 843 833 821 809 796 783 768 753 737 720 701 681 660 636 611 584 555 522 487 448 405 356
        302 241 172 92
    """,
    (40, 5): """
        999 994 989 983 978 972 965 959 952 944 937 929 920 911 902 892 882 870 859 846 833 818 803
        786 768 749 728 706 681 654 624 591 555 514 468 416 356 288 208 113
    """,
    (40, 3): """
        999 991 982 973 963 954 944 933 922 911 899 887 874 861 847 832 817 801 785 767 749 730 710
        688 666 642 617 590 562 531 499 465 428 388 345 299 249 195 136 71
    """,
    (50, 16): """
        999 998 997 995 994 993 991 989 988 986 984 982 980 978 976 973 971 968 965 963 959 956 953
        949 945 941 936 931 926 920 914 907 899 891 882 872 861 848 834 818 799 778 752 722 685 639
        581 504 399 245
    """,
}  # fmt: skip
DPM_TIMESTEPS = {
    (4, 5): """
        1000 937 833 625
    """,
    (4, 12): """
        1000 972 923 800
    """,
    (40, 12): """
        1000 997 995 993 990 988 985 982 979 976 972 969 965 961 957 952 947 941 936 929 923 915 907
        898 888 878 865 852 837 819 800 776 750 717 679 631 571 493 387 235
    """,
}  # fmt: skip


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


@pytest.mark.parametrize("setting", UNIPC_TIMESTEPS)
def test_unipc_timesteps_are_the_official_ones(setting):
    assert build_schedule("unipc", *setting).timesteps.tolist() == numbers(UNIPC_TIMESTEPS[setting])


@pytest.mark.parametrize("setting", DPM_TIMESTEPS)
def test_dpm_timesteps_are_the_official_ones(setting):
    assert build_schedule("dpm++", *setting).timesteps.tolist() == numbers(DPM_TIMESTEPS[setting])


@pytest.mark.parametrize(
    ("solver", "steps", "shift", "sigmas"),
    [
        ("unipc", 4, 5, "0.99979985 0.93726546 0.83305538 0.62468737 0"),
        ("unipc", 4, 12, "0.99991661 0.97286767 0.92293477 0.79978651 0"),
        ("dpm++", 4, 5, "1 0.9375 0.83333331 0.625 0"),
        ("dpm++", 4, 12, "1 0.97297299 0.92307693 0.80000001 0"),
        ("euler", 4, 5, "1 0.9375 0.83333331 0.625 0"),
    ],
)
def test_sigmas_are_the_official_ones_in_float32(solver, steps, shift, sigmas):
    expected = np.array(numbers(sigmas), np.float32)
    np.testing.assert_array_equal(build_schedule(solver, steps, shift).sigmas, expected)


def test_forty_unipc_sigmas_are_the_official_ones():
    # The table has seven digits, so half a unit of the last one is all that may differ.
    expected = numbers(UNIPC_SIGMAS_40_12)
    np.testing.assert_allclose(build_schedule("unipc", 40, 12).sigmas, expected, rtol=0, atol=8e-8)


def test_euler_timesteps_keep_their_fractions():
    assert build_schedule("euler", 4, 5).timesteps == pytest.approx([1000, 937.5, 2500 / 3, 625], rel=1e-15)


@settings(deadline=None, max_examples=25)
@given(
    solver=st.sampled_from(["unipc", "dpm++", "euler"]),
    steps=st.integers(1, 1000),
    shift=st.floats(0.1, 100),
)
@example(solver="euler", steps=1, shift=1 / 3)
def test_sigmas_fall_to_zero_and_timesteps_stay_in_range(solver, steps, shift):
    schedule = build_schedule(solver, steps, shift)
    assert schedule.steps == len(schedule.timesteps) == len(schedule.sigmas) - 1 == steps
    assert np.all(np.diff(schedule.sigmas) < 0)
    assert schedule.sigmas[-1] == 0
    assert np.all(np.diff(schedule.timesteps) <= 0)
    assert schedule.timesteps.min() >= 0
    assert schedule.timesteps.max() <= 1000


def test_repeated_timesteps_keep_their_own_sigmas():
    schedule = build_schedule("unipc", 100, 12)
    assert schedule.timesteps[0] == schedule.timesteps[1] == 999
    assert schedule.sigmas[0] > schedule.sigmas[1]


def test_a_schedule_cannot_be_changed():
    schedule = build_schedule("unipc", 4, 5)
    with pytest.raises(ValueError, match="read-only"):
        schedule.sigmas[0] = 0


@pytest.mark.parametrize(
    ("steps", "shift", "text"),
    [
        (0, 5.0, "steps: 0: must be at least 1"),
        (4, 0.0, "shift: 0.0: must be a positive number"),
        (4, float("inf"), "shift: inf: must be a positive number"),
        (4, float("nan"), "shift: nan: must be a positive number"),
        (50, 1e9, r"shift: with shift 1e\+09 and 50 steps, .* equal in float32. Lower the shift"),
    ],
)
def test_impossible_settings_are_refused_by_name(steps, shift, text):
    with pytest.raises(RequestError, match=text):
        build_schedule("dpm++", steps, shift)
