"""Weak keys are refused, and other keys are accepted."""

from __future__ import annotations

import math
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519

from certplane.x509.pkcs10 import weakkeys
from tests.unit.x509 import material

ROCA = "the RSA key is from a generator whose keys can be factored (ROCA, CVE-2017-15361)"
CLOSE = "the primes of the RSA modulus are too close to each other: Fermat's method finds them"
EXPONENT = "the RSA exponent is even, or less than 3"


@pytest.mark.parametrize("kind", ["RSA-2048", "RSA-3072", "P-256", "P-384", "P-521", "Ed25519"])
def test_ordinary_keys_are_accepted(kind):
    """Of every supported type."""
    assert weakkeys.problems(material.key(kind).public_key()) == []


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param(
            lambda: material.key("RSA-1024"), "the RSA modulus has 1024 bits; the minimum is 2048", id="small RSA"
        ),
        pytest.param(
            lambda: material.key("P-224"),
            "the curve is secp224r1; permitted are P-256, P-384 and P-521",
            id="small curve",
        ),
        pytest.param(
            lambda: ec.generate_private_key(ec.SECP256K1()),
            "the curve is secp256k1; permitted are P-256, P-384 and P-521",
            id="another curve",
        ),
        pytest.param(
            x25519.X25519PrivateKey.generate,
            "the kind of key is not supported; use RSA, ECDSA on P-256, P-384 or P-521, or Ed25519",
            id="a key that cannot sign",
        ),
        pytest.param(
            lambda: dsa.generate_private_key(1024),
            "the kind of key is not supported; use RSA, ECDSA on P-256, P-384 or P-521, or Ed25519",
            id="DSA",
        ),
        pytest.param(lambda: material.rsa_key(*material.close_primes()), CLOSE, id="close primes"),
        pytest.param(lambda: material.rsa_key(*material.roca_primes()), ROCA, id="ROCA"),
    ],
)
def test_weak_keys_are_refused(key, expected):
    """The error has the weakness."""
    public = key().public_key()
    assert weakkeys.problems(public) == [expected]
    with pytest.raises(weakkeys.WeakKey) as caught:
        weakkeys.check(public)
    assert str(caught.value) == f"weak public key: {expected}"


def test_a_key_that_the_library_cannot_represent_is_refused():
    """It is represented by None."""
    assert weakkeys.problems(None) == [
        "the kind of key is not supported; use RSA, ECDSA on P-256, P-384 or P-521, or Ed25519"
    ]


def test_the_minimum_rsa_size_is_configurable():
    """A higher minimum refuses keys that the default accepts."""
    public = material.key("RSA-2048").public_key()
    assert weakkeys.problems(public, 3072) == ["the RSA modulus has 2048 bits; the minimum is 3072"]


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (1, [EXPONENT]),
        (2, [EXPONENT]),
        (3, []),
        (4, [EXPONENT]),
        (17, []),
        (65536, [EXPONENT]),
        (65537, []),
        (2**256 - 1, []),
        (2**256 + 1, ["the RSA exponent has more than 256 bits"]),
    ],
)
def test_rsa_exponents(exponent, expected):
    """Odd, at least 3, and of at most 256 bits."""
    modulus = material.key("RSA-2048").public_key().public_numbers().n
    assert weakkeys.rsa_problems(modulus, exponent) == expected


@pytest.mark.parametrize("factor", [2, 3, 743, 751])
def test_small_factors_are_found(factor):
    """Such a modulus was damaged, or made by a broken generator."""
    modulus = material.key("RSA-2048").public_key().public_numbers().n * factor
    assert weakkeys.rsa_problems(modulus, 65537) == ["the RSA modulus has a factor below 752"]


def test_equal_primes_are_found():
    """They are the closest pair."""
    p, _ = material.close_primes()
    assert weakkeys.rsa_problems(p * p, 65537) == [CLOSE]


def test_the_number_of_fermat_rounds_is_exact():
    """A pair that needs n rounds is found in n, and not in n - 1."""
    root = (1 << 1024) + secrets.randbits(900)
    # (a - b)(a + b) = a*a - b*b, with a a known number of steps above the root of the product.
    rounds = 100
    b = math.isqrt(2 * root * (rounds - 1)) | 1
    modulus = root * root - b * b
    taken = root - math.isqrt(modulus)
    assert 0 < taken <= weakkeys.FERMAT_ROUNDS
    assert weakkeys.has_close_primes(modulus, taken)
    assert not weakkeys.has_close_primes(modulus, taken - 1)


def test_roca_needs_the_same_exponent_for_all_primes():
    """A modulus is not affected if its remainders are powers of the generator with different exponents."""
    primes = [prime for prime, _ in weakkeys._ROCA]
    product = math.prod(primes)
    residue = pow(65537, 12345, product)
    assert weakkeys.is_roca(residue + product)
    # Take another power modulo 163 alone, where the order shares factors with other orders.
    changed = _with_remainder(residue, 163, residue * 65537 % 163, product)
    assert all(changed % prime in logarithms for prime, logarithms in weakkeys._ROCA)
    assert not weakkeys.is_roca(changed)


def _with_remainder(number, prime, remainder, product):
    others = product // prime
    return (number + others * ((remainder - number) * pow(others, -1, prime) % prime)) % product


def test_random_moduli_are_not_roca():
    """There are no false positives."""
    assert not any(weakkeys.is_roca(secrets.randbits(2048) | 1) for _ in range(2000))


def test_keys_with_exponent_three_are_accepted():
    """They are legal, and the linter warns of them."""
    assert weakkeys.problems(rsa.generate_private_key(3, 2048).public_key()) == []
