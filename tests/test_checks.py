"""What the shared checks take and give back, and what they say to all else."""

import re
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relaysim.checks import (
    check_bool,
    check_choice,
    check_count,
    check_counts,
    check_function,
    check_key,
    check_number,
    check_numbers,
    check_path,
    shown,
)

key, keys = jax.random.key(0), jax.random.split(jax.random.key(0), 3)
NO_KEY = "expected a jax random key such as jax.random.key(0)"


@pytest.mark.parametrize("count", [3, np.uint8(3), np.int64(3)])
def test_counts(count):
    for got in (check_count("n", count), check_count("n", count, 3, most=3)):
        assert got == 3 and type(got) is int


@pytest.mark.parametrize("number", [0.5, np.float16(0.5), np.array(0.5), jnp.float32(0.5), jnp.bfloat16(0.5)])
def test_numbers(number):
    assert check_number("p", number, 0, 1) == 0.5
    assert type(check_number("p", number)) is float


@pytest.mark.parametrize("number", [1, np.uint8(1), jnp.int32(1), np.longdouble(1)])
def test_a_number_may_be_an_integer(number):
    assert check_number("p", number, 0, 1) == 1.0 and type(check_number("p", number)) is float


def test_bools():
    assert check_bool("lazy", True) is check_bool("lazy", np.True_) is True
    assert check_bool("lazy", False) is check_bool("lazy", np.bool_(0)) is False


def test_keys():
    assert check_key("key", key) is key
    assert check_key("key", keys[1]).shape == ()


def test_traced_values_pass():
    def f(x, key):
        assert check_number("x", x, 0, 1) is x
        assert check_key("key", key) is key
        return x

    assert jax.jit(jax.vmap(f))(jnp.full(3, 7.0), keys).tolist() == [7.0] * 3


def traced_seed():
    jax.eval_shape(lambda seed: check_key("key", seed), jnp.zeros(2, jnp.uint32))


@pytest.mark.parametrize(
    ("check", "args", "message"),
    [
        (check_count, ("n", 0), "n is 0, expected an integer of at least 1"),
        (check_count, ("n", True), "n is True, expected an integer of at least 1"),
        (check_count, ("n", np.True_), "expected an integer of at least 1"),
        (check_count, ("n", 3.0), "n is 3.0, expected an integer of at least 1"),
        (check_count, ("n", "3"), "n is '3', expected an integer of at least 1"),
        (check_count, ("n", np.ones(2, int)), "n is int64 of shape (2,), expected an integer of at least 1"),
        (check_count, ("n", 1, 2), "n is 1, expected an integer of at least 2"),
        (check_count, ("n", 9, 2, 8), "n is 9, expected an integer of at least 2 and at most 8"),
        *(
            (check_counts, ("n", value), "expected a sequence of integers of at least 1")
            for value in (
                2,
                None,
                "12",
                {1: 2},
                (2, False),
                [1, 0],
                [1.0],
                np.ones(2),
                jnp.ones(2),
                key,
                keys,
            )
        ),
        *(
            (check_numbers, ("v", value, 2), "expected real numbers of shape (2,)")
            for value in (
                "12",
                None,
                1.0,
                [1, 2, 3],
                [[1, 2]],
                [1, "2"],
                [1, 2j],
                [None, 1],
                [[1], [1, 2]],
                keys,
            )
        ),
        (
            check_numbers,
            ("v", np.ones((0, 3)), "n", 3),
            "v is float64 of shape (0, 3), expected real numbers of",
        ),
        *(
            (check_choice, ("mode", value, ["max", "min"]), "expected one of 'max', 'min'")
            for value in ("best", None, 3, ["max"], np.array(["max", "min"]), keys)
        ),
        (check_function, ("until", 3, "of a record"), "until is 3, expected a function of a record"),
        *((check_path, ("out", value), "expected a path") for value in (None, 3, b"out", ["out"], key)),
        (check_bool, ("lazy", "False"), "lazy is 'False', expected True or False"),
        (check_bool, ("lazy", 1), "lazy is 1, expected True or False"),
        (check_bool, ("lazy", None), "lazy is None, expected True or False"),
        (check_number, ("p", 1.5, 0, 1), "p is 1.5, expected a finite number in [0, 1]"),
        (check_number, ("p", 1, 0, 1, "[)"), "p is 1, expected a finite number in [0, 1)"),
        (check_number, ("p", 0, 0, 1, "(]"), "p is 0, expected a finite number in (0, 1]"),
        (check_number, ("p", -1, 0), "p is -1, expected a finite number in [0, inf)"),
        (check_number, ("p", "x"), "p is 'x', expected a finite number in (-inf, inf)"),
        *(
            (check_number, ("p", value), "p is ")
            for value in (
                *("1", None, True, np.False_, 1j, 1 + 0j, np.complex64(1), Fraction(1, 2), Decimal("0.5")),
                *(float("nan"), float("inf"), -np.inf, jnp.nan, jnp.float32(jnp.inf), 10**400),
                *(np.ones(2), jnp.ones(1), [1.0], np.array("1"), np.array(None), key),
            )
        ),
        (check_key, ("key", 0), f"key is 0, {NO_KEY}"),
        (check_key, ("key", None), f"key is None, {NO_KEY}"),
        (check_key, ("key", jax.random.PRNGKey(0)), f"key is uint32 of shape (2,), {NO_KEY}"),
        (check_key, ("key", jax.random.key_data(key)), f"key is uint32 of shape (2,), {NO_KEY}"),
        (check_key, ("key", keys), f"key is key<fry> of shape (3,), {NO_KEY}"),
        (traced_seed, (), f"key is uint32 of shape (2,), {NO_KEY}"),
    ],
)
def test_refused(check, args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(*args)


def test_a_value_is_shown_in_one_short_line():
    for value in (key, keys, np.ones((2, 2)), "a\nb", list(range(1000)), np.array(None)):
        assert "\n" not in shown(value) and len(shown(value)) <= 150
