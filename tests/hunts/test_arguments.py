"""Whatever a user hands to what is public: the answer is a result or one clear error of minivae's."""

import arguments
import pytest


def test_the_calls_that_others_are_made_of_go_well():
    assert arguments.base_calls() == {}


def came_out(n, seed):
    outcomes, raw = arguments.hunt(n, seed)
    assert raw == {}
    assert sum(outcomes.values()) == n and outcomes["empty"] == 0
    return outcomes


def test_a_thousand_calls_raise_nothing_raw():
    assert came_out(1000, seed=0)["done"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_twenty_thousand_calls_raise_nothing_raw(seed):
    outcomes = came_out(20_000, seed)
    print(dict(outcomes))
    assert outcomes["done"] > 2000
