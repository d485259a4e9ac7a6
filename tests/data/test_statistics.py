import numpy as np
from pcam_files import random_split

from pcam_lightning.data.statistics import ChannelStatistics, channel_sums, statistics_of


def test_sums_and_moments_are_numpys() -> None:
    images = random_split(20)[0]
    images[0], images[1] = 255, 0  # the largest sums there can be
    np.testing.assert_array_equal(channel_sums(images), images.sum(axis=(1, 2), dtype=np.int64))
    whole, parts = ChannelStatistics(), statistics_of([images[:7], images[7:8], images[8:]])
    whole.add(images)
    assert whole.mean_and_std() == parts.mean_and_std()
    mean, std = whole.mean_and_std()
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_one_color_has_no_deviation() -> None:
    flat = np.full((3, 96, 96, 3), (10, 255, 0), np.uint8)
    mean, std = statistics_of([flat]).mean_and_std()
    np.testing.assert_allclose(mean, np.array([10, 255, 0]) / 255)
    assert std == [0, 0, 0]
