"""Pseudonyms of patients, which checkpoints keep instead of names.

A checkpoint knows its training patients, so that it is never scored on them. As checkpoints are shared, only salted
hashes of the names are kept. They do not reveal a name, but whoever guesses one can confirm it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any


def pseudonyms(patients: Iterable[str]) -> dict[str, Any]:
    """Return ``{"salt": str, "patients": [str, ...]}``, with a salt of its own for every call."""
    salt = secrets.token_hex(16)
    return {"salt": salt, "patients": sorted({_pseudonym(name, salt) for name in patients})}


def known_patients(patients: Iterable[str], saved: Mapping[str, Any]) -> list[str]:
    """Return those of some patients that are among the saved ones, sorted.

    Args:
        patients: Names of patients.
        saved: What :func:`pseudonyms` returned, or, from version 0.1, names without a salt.
    """
    salt, kept = saved.get("salt"), set(saved.get("patients", ()))
    return sorted({name for name in patients if (name if salt is None else _pseudonym(name, salt)) in kept})


def _pseudonym(name: str, salt: str) -> str:
    encoded = name.encode("utf-8", "surrogateescape")  # names come from files, whose names may be any bytes
    return hashlib.blake2b(encoded, key=bytes.fromhex(salt), digest_size=16).hexdigest()
