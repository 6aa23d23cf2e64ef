"""Advantages against closed forms and slow loops."""

import pytest
import torch
from torch import Tensor

from diffpolicy.alignment import (
    SCALES,
    PromptBuffer,
    Scale,
    gae,
    group_advantages,
    leave_one_out,
    softmax_weights,
)

GROUP = torch.arange(6).repeat(4)


def rewards(seed: int = 0) -> torch.Tensor:
    return torch.randn(24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", SCALES)
def test_advantages_of_a_group_sum_to_zero(scale: Scale) -> None:
    values, flat = group_advantages(rewards(), GROUP, scale, clip=None)
    for name in range(6):
        assert abs(values[name == GROUP].sum().item()) < 1e-12
    assert flat == 0


def test_scales_are_the_published_ones() -> None:
    given = rewards()
    centred = given - torch.stack([given[name == GROUP].mean() for name in range(6)])[GROUP]
    own = torch.stack([given[name == GROUP].std(correction=0) for name in range(6)])[GROUP]
    scales: dict[Scale, Tensor | float] = {
        "global": given.std(correction=0) + 1e-4,
        "group": own + 1e-4,
        "none": 1.0,
    }
    for scale, by in scales.items():
        torch.testing.assert_close(group_advantages(given, GROUP, scale, clip=None).values, centred / by)


@pytest.mark.parametrize("scale", SCALES)
def test_groups_of_equal_rewards_teach_nothing_and_are_counted(scale: Scale) -> None:
    given = rewards().float()
    given[(GROUP == 1) | (GROUP == 4)] = 0.1  # the mean of 0.1s is not 0.1
    values, flat = group_advantages(given, GROUP, scale, epsilon=0.0)
    assert flat == 2
    assert (values[(GROUP == 1) | (GROUP == 4)] == 0.0).all()
    assert (values[GROUP == 0] != 0.0).all()
    assert values.dtype == torch.float32
    nothing, flat = group_advantages(torch.ones(24), GROUP, scale, epsilon=0.0)
    assert flat == 6
    assert (nothing == 0.0).all()


def test_advantages_are_clipped() -> None:
    given = torch.zeros(100)
    given[0] = 1.0
    assert group_advantages(given, torch.zeros(100, dtype=torch.int64)).values.max() == 5.0


def test_leave_one_out_is_the_reward_less_the_mean_of_the_others() -> None:
    given = rewards()
    values = leave_one_out(given, GROUP)
    for row in range(24):
        others = (GROUP[row] == GROUP) & (torch.arange(24) != row)
        assert abs(values[row] - (given[row] - given[others].mean())) < 1e-12
    with pytest.raises(ValueError, match="two or more"):
        leave_one_out(torch.ones(3), torch.tensor([0, 0, 1]))


def test_softmax_weights_have_mean_one() -> None:
    given = rewards()
    torch.testing.assert_close(softmax_weights(given, 0.5), 24 * torch.softmax(given / 0.5, 0))
    grouped = softmax_weights(given * 1e4, 1.0, GROUP)  # far beyond what exp can hold
    assert all(abs(grouped[name == GROUP].mean() - 1.0) < 1e-12 for name in range(6))
    with pytest.raises(ValueError, match="temperature"):
        softmax_weights(given, 0.0)


def test_a_prompt_is_compared_with_the_batch_until_its_buffer_knows_enough() -> None:
    buffer = PromptBuffer(size=4, minimum=4, epsilon=0.0)
    prompt = torch.tensor([7, 7, 9])
    first = torch.tensor([1.0, 2.0, 6.0])
    torch.testing.assert_close(
        buffer.advantages(first, prompt).values, (first - first.mean()) / first.std(correction=0)
    )
    again = PromptBuffer(size=4, minimum=4, epsilon=0.0)
    again.load_state(buffer.state())
    for each in (buffer, again):
        values = each.advantages(torch.tensor([3.0, 4.0, 6.0]), prompt).values
        known, batch = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([3.0, 4.0, 6.0])
        own = (known[2:] - known.mean()) / known.std(correction=0)
        torch.testing.assert_close(values[:2], own)
        torch.testing.assert_close(values[2], (6.0 - batch.mean()) / batch.std(correction=0))


def test_generalised_advantages_are_the_discounted_sums_of_errors() -> None:
    generator = torch.Generator().manual_seed(1)
    given, values = torch.randn(7, 3, generator=generator), torch.randn(8, 3, generator=generator)
    done = torch.rand(7, 3, generator=generator) < 0.3
    found = gae(given, values, done, 0.9, 0.8)
    for env in range(3):
        for start in range(7):
            total, factor = 0.0, 1.0
            for step in range(start, 7):
                goes_on = 0.0 if done[step, env] else 1.0
                error = given[step, env] + 0.9 * goes_on * values[step + 1, env] - values[step, env]
                total, factor = total + factor * error.item(), factor * 0.9 * 0.8 * goes_on
            assert found[start, env].item() == pytest.approx(total, abs=1e-5)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="that of sample 1 is nan"):
        group_advantages(torch.tensor([0.0, torch.nan]), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="one number for each sample"):
        group_advantages(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="scaled by one of"):
        group_advantages(torch.zeros(2), torch.zeros(2, dtype=torch.int64), "local")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="values"):
        gae(torch.zeros(3), torch.zeros(3), torch.zeros(3), 0.9, 0.9)
    with pytest.raises(ValueError, match="minimum"):
        PromptBuffer(size=2, minimum=3)
