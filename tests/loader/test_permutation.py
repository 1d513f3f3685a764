"""A permutation is a bijection that its key alone decides: the same everywhere, both ways, one index or many."""

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.order.permutation import MAX_N, TABLE_UP_TO, Permutation, _stream, derive_key

KEYS = st.integers(0, 2**64 - 1)
N = st.integers(1, 5000) | st.integers(1, MAX_N - 1)
GOLDEN_10 = [3, 5, 0, 8, 1, 4, 2, 9, 6, 7]
GOLDEN_4096 = [3429, 969, 2359, 3363, 2784, 3154, 303, 3675]
GOLDEN_3_BILLION = [1166135757, 1960545011, 757680302, 2145410167]
GOLDEN_2_61 = [1895872294996097902, 595260674834264069]
GOLDEN_DIGEST = "cce932f510843dacd41ee1f946eb52bf1b7c271083a2143e840893f7734b1eb0"
GOLDEN_KEYS = [13020603013274838756, 7906772798660287973, 1753686145474969424]
AROUND = [2**power + more for power in (31, 32, 53, 61) for more in (-1, 0, 1)]


def keys(count: int, *parts: int | str) -> list[int]:
    return [derive_key("test", *parts, i) for i in range(count)]


def test_it_is_a_bijection_for_every_n_up_to_4096() -> None:
    for n in range(1, 4097):
        indices = np.arange(n)
        permutation = Permutation(n, derive_key("bijection", n))
        places = permutation(indices)
        assert np.array_equal(np.bincount(places.astype(np.int64), minlength=n), np.ones(n)), n
        assert np.array_equal(permutation.inverse(places), indices), n


@pytest.mark.parametrize("n", [2**16, 2**16 + 1, 1_000_003, 2**20 - 1])
def test_it_is_a_bijection_over_many_passes_of_an_array(n: int) -> None:
    places = Permutation(n, 2023)(np.arange(n))
    assert np.array_equal(np.sort(places), np.arange(n))


@pytest.mark.parametrize("n", [*AROUND, MAX_N - 1])
def test_its_inverse_undoes_it_around_the_sizes_where_machine_numbers_change(n: int) -> None:
    middle = [int(n * share) for share in (0.25, 0.5, 0.75)]
    near = [i + more for i in (1, *middle, n - 2) for more in (-1, 0, 1)]
    random = np.random.default_rng(n % 2**32).integers(0, n, 20_000)
    indices = np.concatenate([np.array(near), random])
    for key in keys(3, n):
        permutation = Permutation(n, key)
        places = permutation(indices)
        assert int(places.max()) < n
        assert np.array_equal(permutation.inverse(places), indices)
        assert np.array_equal(permutation(permutation.inverse(indices)), indices)


@given(n=N, key=KEYS, data=st.data())
@settings(deadline=None)
def test_one_index_or_many_forth_and_back_agree(n: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6))
    permutation = Permutation(n, key)
    places = [permutation(i) for i in indices]
    assert all(type(place) is int and 0 <= place < n for place in places)
    assert permutation(np.array(indices)).tolist() == places
    assert [permutation.inverse(place) for place in places] == indices
    assert permutation.inverse(np.array(places)).tolist() == indices


@given(n=st.integers(2, 3000), key=KEYS)
@settings(max_examples=50, deadline=None)
def test_any_index_alone_is_what_it_is_among_all(n: int, key: int) -> None:
    permutation = Permutation(n, key)
    everything = permutation(np.arange(n))
    for i in (0, n // 2, n - 1):
        assert permutation(i) == everything[i]
        assert permutation(np.array([[i]])).tolist() == [[everything[i]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integer_type_gives_uint64_of_its_shape_and_stays_as_it_was(dtype: type) -> None:
    indices = np.arange(100, dtype=dtype).reshape(4, 25)[:, ::5]  # not contiguous
    before = indices.copy()
    for n in (200, 2000, 2**40):
        places = Permutation(n, 7)(indices)
        assert places.dtype == np.uint64
        assert places.shape == indices.shape
        assert places.tolist() == [[Permutation(n, 7)(int(i)) for i in row] for row in indices]
    assert np.array_equal(indices, before)


def test_no_indices_give_no_places() -> None:
    for n in (5, 5000):
        assert Permutation(n, 7)(np.array([], np.int64)).shape == (0,)


def test_the_order_never_changes() -> None:
    """Golden: whoever changes these values changes the order of every run that has begun."""
    assert [Permutation(10, 2023)(i) for i in range(10)] == GOLDEN_10
    assert [Permutation(4096, 2023)(i) for i in range(8)] == GOLDEN_4096
    assert [Permutation(3_000_000_000, 2023)(i) for i in range(4)] == GOLDEN_3_BILLION
    assert [Permutation(2**61 + 1, 2**64 - 1)(i) for i in (0, 2**61)] == GOLDEN_2_61
    digest = sha256()
    for n in (1, 2, 3, 100, TABLE_UP_TO, TABLE_UP_TO + 1, 1500, 65_536, 100_003):
        for key in (0, 1, 2023, 2**64 - 1):
            digest.update(Permutation(n, key)(np.arange(n)).astype("<u8").tobytes())
    assert digest.hexdigest() == GOLDEN_DIGEST


def test_the_words_that_a_key_gives_are_those_of_splitmix64() -> None:
    """The published first words of seed 1234567."""
    assert _stream(1234567, 3).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_never_change() -> None:
    assert derive_key() == GOLDEN_KEYS[0]
    assert derive_key("rows", 2023, 0) == GOLDEN_KEYS[1]
    assert derive_key(b"\x00\xff", "é", -1, 2**70) == GOLDEN_KEYS[2]


def test_different_parts_give_different_keys() -> None:
    parts: list[tuple[int | str | bytes, ...]] = [
        (),
        ("",),
        (b"",),
        (0,),
        ("", ""),
        ("a", "bc"),
        ("ab", "c"),
        ("abc",),
        (b"abc",),
        (1,),
        ("1",),
        (b"\x01",),
        (-1,),
        (255,),
        (256,),
        (1, 0),
        (0, 1),
        (2**64,),
        (1, "a"),
        ("a", 1),
    ]
    assert len({derive_key(*each) for each in parts}) == len(parts)


def test_a_key_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"not from float 1\.5"):
        derive_key("rows", 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, -1, MAX_N])
def test_an_impossible_size_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="between 1 and"):
        Permutation(n, 7)


@pytest.mark.parametrize("key", [-1, 2**64])
def test_a_key_that_does_not_fit_is_refused(key: int) -> None:
    with pytest.raises(ValueError, match="derive_key"):
        Permutation(10, key)


@pytest.mark.parametrize("n", [10, 5000])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_an_index_outside_is_refused_alone_and_among_others(n: int, wrong: int) -> None:
    index = -1 if wrong < 0 else n
    permutation = Permutation(n, 7)
    for ask in (permutation, permutation.inverse):
        with pytest.raises(IndexError, match="lie"):
            ask(index)
        with pytest.raises(IndexError, match="lie"):
            ask(np.array([0, index]))


def test_indices_that_are_floats_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        Permutation(2**60, 7)(np.array([2.0**53]))  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_order_of_a_tiny_source_is_as_likely_as_any_other(n: int) -> None:
    orders = [tuple(Permutation(n, key)(np.arange(n)).tolist()) for key in keys(4800, "tiny", n)]
    seen = {order: orders.count(order) for order in set(orders)}
    possible = int(np.prod(np.arange(1, n + 1)))
    expected = len(orders) / possible
    chi_square = sum((count - expected) ** 2 / expected for count in seen.values())
    assert len(seen) == possible
    assert chi_square < (possible - 1) + 4 * (2 * (possible - 1)) ** 0.5


@pytest.mark.parametrize("n", [1000, 1025, 4096, 100_003])
def test_another_key_gives_an_order_of_its_own(n: int) -> None:
    """Also neighbouring keys, as they are: orders of two keys agree in about one place, as two random orders do."""
    orders = [Permutation(n, key)(np.arange(n)) for key in (0, 1, 2, 3, 2**63, *keys(5, n))]
    agreeing = [int(np.sum(a == b)) for i, a in enumerate(orders) for b in orders[:i]]
    assert max(agreeing) <= 8  # Poisson(1), 45 pairs: 9 or more has probability 5e-5
