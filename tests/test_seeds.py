import hashlib

from pcam_lightning.seeds import derive_seed


def test_streams_are_a_pure_function_of_seed_and_name() -> None:
    text = hashlib.sha256(b"42/augmentation/7").hexdigest()
    assert derive_seed(42, "augmentation", 7) == int(text[:16], 16) >> 1


def test_streams_differ() -> None:
    seeds = {derive_seed(seed, name, at) for seed in (0, 1) for name in "ab" for at in range(9)}
    assert len(seeds) == 36 and all(0 <= seed < 2**63 for seed in seeds)
