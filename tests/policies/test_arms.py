"""Names of arms: what they mean, and what is said of names that mean nothing."""

import pytest

from diffpolicy.diffusion import cosine_betas, variance_preserving
from diffpolicy.policies import PolicyError
from diffpolicy.policies.arms import DEFAULT_COLD, ColdStart, parse_arm
from diffpolicy.policies.rti import WarmStart

PROCESS = variance_preserving(cosine_betas(100), prediction="sample")


def test_cold_arms() -> None:
    assert parse_arm("ddim_3@8").cold == ColdStart("ddim", 3, "trailing")
    assert parse_arm("ddim_3@8").execute == 8
    assert parse_arm("ddim_3").execute is None
    assert parse_arm("leading_ddim_3").cold == ColdStart("ddim", 3, "leading")
    assert parse_arm("dpm_5").cold == ColdStart("dpm_solver", 5)
    assert parse_arm("heun_2").kind == "cold"


def test_warm_arms() -> None:
    published = parse_arm("rti_2_1_0")
    assert published.warm == WarmStart((2, 1, 0), single_index=True)
    assert (published.execute, published.guard, published.cold) == (1, False, DEFAULT_COLD)
    assert parse_arm("rti_2_1_0@8").execute == 8
    assert parse_arm("warm_60_30_10").warm == WarmStart((60, 30, 10))
    assert parse_arm("warm_sde_60_30").warm == WarmStart((60, 30), eta=1.0)
    soft = parse_arm("soft_20_10_3_guard")
    assert soft.warm == WarmStart((20, 10, 3), commit=True)
    assert (soft.execute, soft.guard) == (1, True)


def test_where_a_warm_arm_starts_cold_can_be_named() -> None:
    arm = parse_arm("rti_2_1_0_from_ddpm_100_guard@2")
    assert (arm.cold, arm.guard, arm.execute) == (ColdStart("ddpm", 100), True, 2)
    assert parse_arm("reuse_from_leading_ddim_5").cold.spacing == "leading"


def test_streaming_arms() -> None:
    assert parse_arm("streaming").steps is None
    assert parse_arm("streaming_2@4").steps == 2
    assert parse_arm("streaming_2@4").execute == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dddim_3", "names are ddpm_K"),
        ("ddim", "names are"),
        ("ddim_3@0", "executes no action"),
        ("ddim_3_guard", "start from the last chunk"),
        ("streaming_0", "takes no denoising step"),
        ("streaming_from_ddim_3", "start from the last chunk"),
        ("rti_0_1_2", "goes down from level to level"),
        ("rti_20_10_5", "from level 0"),
        ("warm_60_30_from_rti_2_1_0", "names are"),
        ("DDIM_3", "names are"),
    ],
)
def test_what_is_no_arm_is_said(name: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        parse_arm(name)


def test_samplers_of_arms() -> None:
    assert ColdStart("ddim", 3).sampler(PROCESS, 1.0).evaluations == 3
    assert ColdStart("ddim", 3).sampler(PROCESS, 1.0).levels[0] == 99
    assert ColdStart("ddim", 3, "leading").sampler(PROCESS, 1.0).levels[-1] == 0
    assert ColdStart("ddpm", 100).sampler(PROCESS, None).draws == 100
    with pytest.raises(PolicyError, match="101 denoising steps"):
        ColdStart("ddim", 101).sampler(PROCESS, 1.0)
    with pytest.raises(PolicyError, match="level 100 needs more than the 100 levels"):
        WarmStart((100, 50)).sampler(PROCESS, 1.0)
