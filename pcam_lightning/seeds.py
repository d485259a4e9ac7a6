"""Named random streams: an independent seed, derived from the run's seed, for each use."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """Return the seed of the stream called `names` in a run seeded with `seed`.

    Initialization, sampling order and augmentation each draw from their own stream: if one of them
    draws more often, the others do not change. The function is pure (SHA-256 of the arguments), so
    that any position of a stream, such as `derive_seed(42, "augmentation", step)`, can be computed
    without stored state.

    Returns an int in [0, 2**63).
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
