"""The bits that round an update are as coin tosses: by themselves, between neighbours, updates and moments."""

import pytest
import torch
from torch import Tensor

from trainer.kernels.adamw_reference import mixed, random_bits, rounded

COUNT = 1 << 18
SALT = 20261201


def bits(moved: int, first: int = 0, salt: int = SALT, count: int = COUNT) -> Tensor:
    return random_bits(count, torch.tensor([salt, first], dtype=torch.int32), torch.tensor(float(moved)))


def halves(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """What rounds the weight, and what rounds the moments, from 0 to 1."""
    return (drawn & 0xFFFF).double() / 2**16, ((drawn >> 16) & 0xFFFF).double() / 2**16


def tosses(drawn: Tensor) -> Tensor:
    """(bit, element): 1 and -1."""
    return ((drawn >> torch.arange(32)[:, None]) & 1).float() * 2 - 1


def related(a: Tensor, b: Tensor) -> float:
    """The largest correlation of a bit of one with a bit of the other, in standard deviations of chance."""
    return ((tosses(a) @ tosses(b).T).abs().max() / len(a) ** 0.5).item()


#: Of 1,024 pairs of bits the largest is 3.3 in the mean; 5.5 comes once in 25,000 times.
CHANCE = 5.5


def test_each_number_is_as_frequent_as_another() -> None:
    for drawn in (bits(1), bits(2), bits(1000, first=1 << 20), bits(7, salt=-5)):
        assert tosses(drawn).sum(1).abs().max() / COUNT**0.5 < CHANCE
        for half in halves(drawn):
            expected = COUNT / 1024
            squares = ((torch.histc(half, 1024, 0, 1) - expected) ** 2 / expected).sum()
            assert abs(squares - 1023) < 6 * (2 * 1023) ** 0.5


@pytest.mark.parametrize("apart", [1, 2, 8, 64, 2048, 4096, 28_672])
def test_neighbours_in_a_row_and_in_a_column_know_nothing_of_each_other(apart: int) -> None:
    drawn = bits(3, count=COUNT + apart)
    assert related(drawn[:-apart], drawn[apart:]) < CHANCE


@pytest.mark.parametrize("apart", [1, 2, 16, 1000])
def test_updates_know_nothing_of_each_other(apart: int) -> None:
    assert related(bits(5), bits(5 + apart)) < CHANCE
    assert related(bits(5)[1:], bits(5 + apart)[:-1]) < CHANCE


def test_nor_do_matrices_or_the_two_halves() -> None:
    assert related(bits(1), bits(1, salt=SALT + 77)) < CHANCE
    both = tosses(bits(1))
    assert ((both[:16] @ both[16:].T).abs().max() / COUNT**0.5).item() < CHANCE


def test_over_many_updates_what_rounding_adds_to_an_element_is_that_of_independent_draws() -> None:
    """Each element's mean of 1,024 draws: right, and spread as chance spreads it. The columns, too: means over elements
    of one update."""
    updates = 1024
    drawn = torch.stack([bits(1 + number, count=4096) for number in range(updates)])
    for half in halves(drawn):
        for side in (0, 1):
            means = half.mean(side)
            chance = (1 / 12 / half.shape[side]) ** 0.5
            assert abs(means.mean() - 0.5) < 5 * chance / len(means) ** 0.5
            assert means.std() / chance == pytest.approx(1, abs=5 / (2 * len(means)) ** 0.5)
            assert ((means - 0.5).abs() < 5.5 * chance).all()


def test_an_element_never_has_the_same_bits_twice_nor_have_two_of_a_matrix() -> None:
    assert len(torch.unique(mixed(torch.arange(COUNT, dtype=torch.int32)))) == COUNT
    assert len(torch.unique(bits(9))) == COUNT
    assert len(torch.unique(torch.stack([bits(number, count=1) for number in range(4096)]))) == 4096


def test_bits_are_of_the_element_of_the_whole_matrix_also_past_two_to_the_thirty_first() -> None:
    assert torch.equal(bits(4)[1000:], bits(4, first=1000)[:-1000])
    assert torch.equal(bits(4, first=2**31 - 500)[500:], bits(4, first=-(2**31))[:-500])


def test_the_mean_of_many_roundings_is_the_number() -> None:
    number = torch.tensor([1.0 + 0.3 * 2**-7, -3.0e-5, 0.7, 1e-30])
    for moved in (1, 2):
        drawn = bits(moved)[:, None] & 0xFFFF
        many = rounded(number.expand(COUNT, -1).contiguous(), drawn).double()
        spacing = number.abs().double() * 2**-7
        assert ((many.mean(0) - number).abs() < 4 * 0.5 * spacing / COUNT**0.5).all()
        assert all(len(many[:, column].unique()) == 2 for column in range(4))
