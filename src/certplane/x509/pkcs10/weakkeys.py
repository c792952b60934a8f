"""Public keys for which no certificate is issued: too small, of an unexpected kind, or made by a faulty generator.

The checks are those that a public CA has to make (CA/Browser Forum, Baseline Requirements 6.1.1.3 and 6.1.6), as far as
they need nothing but the key:

- size, curve and exponent;
- small prime factors: a faulty generator, or damaged bits;
- two primes close to each other: Fermat's factorization finds them within a few rounds (CVE-2022-26320);
- ROCA (CVE-2017-15361): primes of the form k*M + (65537**a mod M), where M is the product of the first primes. A
  modulus of two of them is a power of 65537 modulo every prime in M. (Nemec, Sys, Svenda, Klinec, Matyas: The Return
  of Coppersmith's Attack, CCS 2017, section 2.)

A key that passes is not proven to be strong: leaked keys, and keys that share a prime with another, are not detected.
"""

from __future__ import annotations

import math
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

#: Bits. Baseline Requirements 6.1.5; NIST SP 800-57 part 1 section 5.6.1.
MIN_RSA_BITS: Final = 2048
#: Rounds of Fermat's method; Baseline Requirements 6.1.1.3 asks for 100.
FERMAT_ROUNDS: Final = 110
#: Baseline Requirements 6.1.6: no factor of a modulus is smaller than this.
_SMALLEST_FACTOR: Final = 752
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
#: Baseline Requirements 6.1.6: an exponent should be below 2**256.
_MAX_EXPONENT_BITS: Final = 256


class WeakKey(ValueError):
    """A public key for which nothing is signed; the requestor needs another. The text is for the Failed condition."""


def check(key: object, min_rsa_bits: int = MIN_RSA_BITS) -> None:
    """Raises WeakKey, with all problems of a key."""
    key_problems = problems(key, min_rsa_bits)
    if key_problems:
        raise WeakKey(f"weak public key: {'; '.join(key_problems)}")


def problems(key: object, min_rsa_bits: int = MIN_RSA_BITS) -> list[str]:
    """The problems of a public key of `cryptography`; None stands for a key that it does not support."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return rsa_problems(numbers.n, numbers.e, min_rsa_bits)
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = key.curve.name
        return [] if name in _CURVES else [f"the curve is {name}; permitted are P-256, P-384 and P-521"]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return []
    return ["the kind of key is not supported; use RSA, ECDSA on P-256, P-384 or P-521, or Ed25519"]


def rsa_problems(modulus: int, exponent: int, min_bits: int = MIN_RSA_BITS) -> list[str]:
    """The problems of an RSA key.

    An odd exponent of 3 or more is permitted, as in Baseline Requirements 6.1.6; their recommendation of 65537 or more
    is a warning of `linter`.
    """
    result = []
    if modulus.bit_length() < min_bits:
        result.append(f"the RSA modulus has {modulus.bit_length()} bits; the minimum is {min_bits}")
    if exponent < 3 or not exponent & 1:
        result.append("the RSA exponent is even, or less than 3")
    elif exponent.bit_length() > _MAX_EXPONENT_BITS:
        result.append(f"the RSA exponent has more than {_MAX_EXPONENT_BITS} bits")
    if math.gcd(modulus, _SMALL_FACTORS) != 1:
        result.append(f"the RSA modulus has a factor below {_SMALLEST_FACTOR}")
    elif has_close_primes(modulus):
        result.append("the primes of the RSA modulus are too close to each other: Fermat's method finds them")
    if is_roca(modulus):
        result.append("the RSA key is from a generator whose keys can be factored (ROCA, CVE-2017-15361)")
    return result


def _primes(below: int) -> list[int]:
    return [n for n in range(2, below) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1))]


_SMALL_FACTORS: Final = math.prod(_primes(_SMALLEST_FACTOR))


# --- close primes -------------------------------------------------------------------------------------------------

#: Moduli by which most numbers that are not squares are recognized; a square root takes ten times as long.
_SIEVES: Final = (64, 9 * 5 * 7 * 11)


def _squares(modulo: int) -> bytes:
    """For each remainder, whether a square can have it."""
    flags = bytearray(modulo)
    for n in range(modulo):
        flags[n * n % modulo] = 1
    return bytes(flags)


_SQUARES_MOD_64, _SQUARES_MOD_3465 = map(_squares, _SIEVES)


def has_close_primes(modulus: int, rounds: int = FERMAT_ROUNDS) -> bool:
    """Whether Fermat's method factors an odd modulus: looks for a with a*a - modulus = b*b, from the root upwards."""
    root = math.isqrt(modulus)
    if root * root == modulus:
        return True
    root += 1
    rest = root * root - modulus
    step = 2 * root + 1
    for _ in range(rounds):
        if _SQUARES_MOD_64[rest & 63] and _SQUARES_MOD_3465[rest % 3465] and math.isqrt(rest) ** 2 == rest:
            return True
        rest += step
        step += 2
    return False


# --- ROCA ---------------------------------------------------------------------------------------------------------

_GENERATOR: Final = 65537
#: One more than the largest prime in the M of the shortest keys (39 primes); those of longer keys contain them all.
_ROCA_PRIMES_END: Final = 168


def _logarithms(prime: int) -> dict[int, int]:
    """The powers of the generator modulo a prime, each with its exponent."""
    exponents: dict[int, int] = {}
    power = 1
    while power not in exponents:
        exponents[power] = len(exponents)
        power = power * _GENERATOR % prime
    return exponents


#: The primes with their logarithms; first those where the fewest remainders are powers of the generator.
_ROCA: Final = sorted(
    ((prime, _logarithms(prime)) for prime in _primes(_ROCA_PRIMES_END)[1:]),
    key=lambda entry: len(entry[1]) / entry[0],
)


def is_roca(modulus: int) -> bool:
    """Whether one power of the generator has the remainders of the modulus for all primes at once.

    That each remainder is some power holds by chance for one modulus in 2**27; that their exponents, known modulo the
    orders of the generator, are those of one number, for one in 2**154.
    """
    exponent, order = 0, 1
    for prime, logarithms in _ROCA:
        logarithm = logarithms.get(modulus % prime)
        if logarithm is None:
            return False
        prime_order = len(logarithms)
        common = math.gcd(order, prime_order)
        if (logarithm - exponent) % common:
            return False
        # The Chinese remainder theorem, for moduli that may share factors.
        part = prime_order // common
        exponent += order * ((logarithm - exponent) // common * pow(order // common, -1, part) % part)
        order *= part
    return True
