"""Named random streams: one seed of the run, one independent seed for each use of randomness.

Initialization, sampling order and augmentation each draw from a stream of their own, so that
changing how often one of them draws does not move the others.
"""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """The seed of the stream called `names` in a run seeded with `seed`.

    A pure function (SHA-256 of the arguments), so a position in a stream, say
    `derive_seed(42, "augmentation", step)`, can be entered again without any stored state.

    Returns an int in [0, 2**63).
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
