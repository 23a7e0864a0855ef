"""The greedy soup against Recipe 1 written out plainly, and its promise."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.soup import State, greedy_soup, mean_state

some = settings(max_examples=100, deadline=None, derandomize=True)


def states(values: list[float]) -> list[State]:
    """States of one number, that a score can read."""
    return [{"w": torch.tensor([v], dtype=torch.float64)} for v in values]


@some
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_never_below_its_best_member(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    bumps = rng.normal(size=(3, 5))

    def score(state: State) -> float:  # rough and smooth parts, so that averages help or harm
        return float(np.sin(bumps * state["w"].item() * 5).sum() - state["w"].item() ** 2)

    ranked = sorted(states(list(rng.normal(size=count))), key=lambda s: -score(s))
    soup, best = greedy_soup(ranked, score)
    assert best == score(soup)
    assert best >= max(score(s) for s in ranked)


@some
@given(st.integers(0, 2**31), st.integers(1, 7))
def test_is_recipe_1(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points, target = rng.normal(size=(count, 3)), rng.normal(size=3)

    def value(mean: np.ndarray) -> float:
        return -float(np.abs(mean - target).sum())

    points = points[np.argsort([-value(p) for p in points])]
    ingredients: list[int] = []
    for i in range(count):
        before = value(points[ingredients].mean(0)) if ingredients else -np.inf
        if value(points[[*ingredients, i]].mean(0)) >= before:
            ingredients.append(i)
    soup, _ = greedy_soup(
        [{"w": torch.from_numpy(p)} for p in points], lambda s: value(s["w"].numpy())
    )
    np.testing.assert_allclose(soup["w"].numpy(), points[ingredients].mean(0), atol=1e-12)


def test_the_best_of_all_subsets_where_each_step_helps() -> None:
    # About the origin, best first: all pull towards it but the last.
    points = np.array([[1.0, 0], [0, 1.1], [-1.2, 0], [0, -1.3], [5, 5]])
    soup, best = greedy_soup(
        [{"w": torch.from_numpy(p)} for p in points], lambda s: -s["w"].norm().item()
    )
    subsets = [[i for i in range(5) if mask >> i & 1] for mask in range(1, 2**5)]
    chosen = max(subsets, key=lambda rows: -np.linalg.norm(points[rows].mean(0)))
    assert chosen == [0, 1, 2, 3]
    np.testing.assert_allclose(soup["w"].numpy(), points[chosen].mean(0), atol=1e-15)
    assert best == pytest.approx(-np.linalg.norm(points[chosen].mean(0)))


def test_one_that_leaves_the_score_as_it_is_joins() -> None:
    soup, best = greedy_soup(states([0.0, 1.0]), lambda _: 0.5)
    assert (soup["w"].item(), best) == (0.5, 0.5)


def test_members_are_left_as_they_were() -> None:
    members = states([1.0, 2.0, 3.0])
    greedy_soup(members, lambda s: s["w"].item())
    assert [s["w"].item() for s in members] == [1, 2, 3]


def test_integers_and_flags_survive() -> None:
    counts = {"n": torch.tensor([3, 2**40]), "on": torch.tensor(True), "w": torch.tensor([1.0])}
    mean = mean_state([counts, {**counts, "w": torch.tensor([2.0])}])
    assert {k: v.dtype for k, v in mean.items()} == {k: v.dtype for k, v in counts.items()}
    assert mean["n"].tolist() == [3, 2**40] and mean["on"].item() is True
    assert mean["w"].item() == 1.5


def test_many_members_are_summed_without_drift() -> None:
    mean = mean_state([{"w": torch.tensor([0.1])}] * 1000)
    assert torch.equal(mean["w"], torch.tensor([0.1]))


def test_an_order_other_than_best_first_keeps_the_first() -> None:
    soup, best = greedy_soup(states([1.0, 3.0, 2.0]), lambda s: s["w"].item())
    trace = [1.0, 2.0, 2.0]  # the score as each joins
    assert best == trace[-1] and all(a <= b for a, b in pairwise(trace))
    assert soup["w"].item() == 2.0


def test_without_a_state_it_says_so() -> None:
    with pytest.raises(ValueError, match="states: none given; expected at least one"):
        greedy_soup([], lambda _: 0.0)
