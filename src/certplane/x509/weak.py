"""Public keys that no certificate should be made for: too small, of a kind nobody expects, or made by a known fault.

What is looked for is what a public authority has to refuse (CA/Browser Forum, Baseline Requirements 6.1.1.3 and
6.1.6), as far as the key itself shows it:

- size, curve and exponent;
- small prime factors: a broken generator, or bits that were damaged;
- two primes close to each other: Fermat's factorization finds them within a few rounds (CVE-2022-26320);
- ROCA (CVE-2017-15361): primes of the form k*M + (65537**a mod M), where M is the product of the first primes. A
  modulus of two of them is a power of 65537 modulo every prime in M. (Nemec, Sys, Svenda, Klinec, Matyas: The Return
  of Coppersmith's Attack, CCS 2017, section 2.)

A key without a finding is not proven good: lists of keys that became known, and keys that share a prime with another,
are not known here.
"""

from __future__ import annotations

import math
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

#: Bits. Baseline Requirements 6.1.5; NIST SP 800-57 part 1 section 5.6.1.
SMALLEST_RSA: Final = 2048
#: Rounds of Fermat's method; Baseline Requirements 6.1.1.3 asks for 100.
ROUNDS: Final = 110
#: Baseline Requirements 6.1.6: no factor of a modulus is smaller than this.
_SMALLEST_FACTOR: Final = 752
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_LONGEST_EXPONENT: Final = 256


class WeakKey(ValueError):
    """A public key that nothing is signed for. Its owner has to make another: the text is for the Failed condition."""


def check(key: object, smallest_rsa: int = SMALLEST_RSA) -> None:
    """Raises WeakKey, with everything that is wrong with a key."""
    found = problems(key, smallest_rsa)
    if found:
        raise WeakKey(f"the public key is refused: {'; '.join(found)}")


def problems(key: object, smallest_rsa: int = SMALLEST_RSA) -> list[str]:
    """What is wrong with a public key of `cryptography`; None stands for a key that it cannot represent. The smallest
    RSA key is in bits.
    """
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return rsa_problems(numbers.n, numbers.e, smallest_rsa)
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = key.curve.name
        return [] if name in _CURVES else [f"the curve {name} is none of P-256, P-384 and P-521"]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return []
    return ["keys are RSA, ECDSA on P-256, P-384 or P-521, or Ed25519"]


def rsa_problems(modulus: int, exponent: int, smallest: int = SMALLEST_RSA) -> list[str]:
    """What is wrong with the numbers of an RSA key.

    An exponent of 3 or more that is odd is let in, as Baseline Requirements 6.1.6 has it: that it should be 65537 or
    more is advice, which `lint` gives.
    """
    found = []
    if modulus.bit_length() < smallest:
        found.append(f"the RSA modulus has {modulus.bit_length()} bits, and {smallest} are needed")
    if exponent < 3 or not exponent & 1:
        found.append("the RSA exponent is even, or less than 3")
    elif exponent.bit_length() > _LONGEST_EXPONENT:
        found.append(f"the RSA exponent has more than {_LONGEST_EXPONENT} bits")
    if math.gcd(modulus, _SMALL_FACTORS) != 1:
        found.append(f"the RSA modulus has a factor below {_SMALLEST_FACTOR}")
    elif has_close_primes(modulus):
        found.append("the primes of the RSA modulus are so close to each other that they can be computed")
    if is_roca(modulus):
        found.append("the RSA modulus was made by a generator whose keys can be broken (ROCA, CVE-2017-15361)")
    return found


def _primes(below: int) -> list[int]:
    return [each for each in range(2, below) if all(each % other for other in range(2, math.isqrt(each) + 1))]


_SMALL_FACTORS: Final = math.prod(_primes(_SMALLEST_FACTOR))


# --- close primes -------------------------------------------------------------------------------------------------

#: Moduli that tell most numbers that are no squares apart from squares, cheaply; a square root costs ten times as much.
_SIEVES: Final = (64, 9 * 5 * 7 * 11)


def _squares(modulo: int) -> bytes:
    """For each remainder whether a square can have it."""
    found = bytearray(modulo)
    for each in range(modulo):
        found[each * each % modulo] = 1
    return bytes(found)


_FIRST, _SECOND = (_squares(each) for each in _SIEVES)


def has_close_primes(modulus: int, rounds: int = ROUNDS) -> bool:
    """Whether Fermat's method factors an odd modulus: looks for a with a*a - modulus = b*b, from the root upwards."""
    root = math.isqrt(modulus)
    if root * root == modulus:
        return True
    root += 1
    rest = root * root - modulus
    step = 2 * root + 1
    for _ in range(rounds):
        if _FIRST[rest & 63] and _SECOND[rest % 3465] and math.isqrt(rest) ** 2 == rest:
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
    found: dict[int, int] = {}
    power = 1
    while power not in found:
        found[power] = len(found)
        power = power * _GENERATOR % prime
    return found


#: The primes with their logarithms; first those where the fewest remainders are powers of the generator.
_ROCA: Final = sorted(
    ((prime, _logarithms(prime)) for prime in _primes(_ROCA_PRIMES_END)[1:]),
    key=lambda each: len(each[1]) / each[0],
)


def is_roca(modulus: int) -> bool:
    """Whether one power of the generator has the remainders of the modulus for all primes at once.

    That each remainder is some power holds by chance for one modulus in 2**27; that their exponents, known modulo the
    orders of the generator, are those of one number, for one in 2**154.
    """
    exponent, order = 0, 1
    for prime, logarithms in _ROCA:
        found = logarithms.get(modulus % prime)
        if found is None:
            return False
        known = len(logarithms)
        common = math.gcd(order, known)
        if (found - exponent) % common:
            return False
        # Chinese remainders, for moduli that may share factors.
        part = known // common
        exponent += order * ((found - exponent) // common * pow(order // common, -1, part) % part)
        order *= part
    return True
