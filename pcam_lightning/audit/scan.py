"""Scan of a split: one pass in bounded memory, which computes a few numbers for every patch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from tqdm import tqdm

from pcam_lightning.audit.landmarks import LandmarkCoder, Landmarks
from pcam_lightning.data.clean import Changes, to_uint8
from pcam_lightning.data.files import (
    PATCH_BYTES,
    SplitFiles,
    is_channels_first,
    map_chunks,
    open_dataset,
    read_raw_labels,
)
from pcam_lightning.data.h5 import DirectPatches
from pcam_lightning.data.scale import BYTES, Appearance, Scale, appearance, sample
from pcam_lightning.data.slides import read_meta
from pcam_lightning.data.statistics import ChannelStatistics, channel_sums


@dataclass(frozen=True)
class SplitScan:
    """Result of a pass over a split of N patches."""

    files: SplitFiles
    storage: dict[str, Any]
    """The result of `describe_storage`."""
    labels: np.ndarray
    """As in the file, any numeric dtype [N]."""
    meta: dict[str, np.ndarray] | None
    """The columns from `read_meta`, None without a meta file."""
    appearance: Appearance
    """The pixel scale guessed from a sample."""
    scale: Scale
    """The pixel scale used for reading."""
    mean: np.ndarray
    """Mean of each cleaned patch, 0..255, float64 [N]."""
    content: np.ndarray
    """A 128-bit digest of each cleaned patch, uint64 [N, 2]."""
    changes: Changes
    """Number of values that cleaning changed, for each patch."""
    low: float
    """The smallest finite pixel in the file, NaN if there is none."""
    high: float
    """The largest finite pixel in the file, NaN if there is none."""
    channels: ChannelStatistics
    landmarks: Landmarks | None = None
    """Landmarks of each patch, None if no coder was given."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def slides(self) -> np.ndarray | None:
        """The slide id of every patch, object [N] of str; None without a meta file."""
        return None if self.meta is None else self.meta["wsi"]

    def patches(self) -> DirectPatches:
        """Return the cleaned patches, indexed by row."""
        return DirectPatches(self.files, len(self), self.scale)


def scan_split(
    files: SplitFiles, bar: tqdm, scale: Scale | None = None, coder: LandmarkCoder | None = None
) -> SplitScan:
    """Read every patch of a split once.

    Args:
        files: the files of the split.
        bar: progress bar, advanced by one for each patch.
        scale: the pixel scale; None means the scale guessed from a sample, or 0..255 if no scale
            that can be read is found.
        coder: finds landmarks, if the split is to be searched for near-duplicates.

    Raises:
        InputError: a file cannot be read, or the files do not belong together.
    """
    labels = read_raw_labels(files)
    guess = appearance(sample(files))
    scale = scale or guess.scale or BYTES
    with open_dataset(files, "x") as dataset:
        parts = []
        for part in map_chunks(dataset, files.images, lambda _, raw: _scan(raw, scale, coder)):
            bar.update(len(part.mean))
            parts.append(part)
        storage = describe_storage(dataset, files.images)
    low = float(np.fmin.reduce([part.low for part in parts]))
    high = float(np.fmax.reduce([part.high for part in parts]))
    return SplitScan(
        files=files,
        storage=storage,
        labels=labels,
        meta=read_meta(files),
        appearance=guess,
        scale=scale,
        mean=np.concatenate([part.mean for part in parts]),
        content=np.concatenate([part.content for part in parts]),
        changes=Changes(
            *(
                np.concatenate([getattr(part.changes, name) for part in parts])
                for name in Changes.__dataclass_fields__
            )
        ),
        low=low,
        high=high,
        channels=sum((part.channels for part in parts), ChannelStatistics()),
        landmarks=Landmarks.concatenate(part.landmarks for part in parts) if coder else None,
    )


def describe_storage(dataset: h5py.Dataset, path: Path) -> dict[str, Any]:
    """Return dtype, layout, bytes on disk, and a text that explains this size."""
    size, plain = path.stat().st_size, dataset.shape[0] * PATCH_BYTES
    item = dataset.dtype.itemsize
    why = []
    if item > 1:
        why.append(f"{dataset.dtype} takes {item} bytes for a value that fits in one")
    if dataset.compression:
        compressed = dataset.id.get_storage_size() / max(1, dataset.nbytes)
        why.append(f"{dataset.compression} compresses the patches to {compressed:.0%}")
    layout = f"chunked {dataset.chunks}" if dataset.chunks else "contiguous"
    return {
        "path": path,
        "dtype": str(dataset.dtype),
        "layout": f"{layout}, channels first" if is_channels_first(dataset) else layout,
        "compression": dataset.compression,
        "bytes": size,
        "bytes_as_uint8": plain,
        "why": "; ".join(why) or "one byte per value, as in the official files",
    }


@dataclass(frozen=True)
class _Chunk:
    mean: np.ndarray
    content: np.ndarray
    changes: Changes
    low: float
    high: float
    channels: ChannelStatistics
    landmarks: Landmarks | None


def _scan(raw: np.ndarray, scale: Scale, coder: LandmarkCoder | None) -> _Chunk:
    pixels, changes = to_uint8(raw, scale)
    sums = channel_sums(pixels)
    channels = ChannelStatistics()
    channels.add(pixels, sums)
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    digests = b"".join(xxhash.xxh3_128_digest(patch.data) for patch in flat)
    finite = raw if not changes.nan.any() and not changes.infinite.any() else raw[np.isfinite(raw)]
    return _Chunk(
        mean=sums.sum(axis=1) / PATCH_BYTES,
        content=np.frombuffer(digests, np.uint64).reshape(-1, 2),
        changes=changes,
        low=float(finite.min()) if finite.size else np.nan,
        high=float(finite.max()) if finite.size else np.nan,
        channels=channels,
        landmarks=coder(pixels) if coder else None,
    )
