"""One pass over a split, in bounded memory: a few numbers for every patch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import xxhash
from tqdm import tqdm

from pcam_lightning.data.clean import Changes, to_uint8
from pcam_lightning.data.files import (
    PATCH_BYTES,
    SplitFiles,
    map_chunks,
    open_dataset,
    read_meta,
    read_raw_labels,
)
from pcam_lightning.data.h5 import DirectPatches
from pcam_lightning.data.scale import BYTES, Appearance, Scale, appearance, sample
from pcam_lightning.data.statistics import ChannelStatistics, channel_sums


@dataclass(frozen=True)
class SplitScan:
    """What a pass over a split of N patches has seen."""

    files: SplitFiles
    storage: dict[str, Any]
    """How the patches lie on disk (see `describe_storage`)."""
    labels: np.ndarray
    """As in the file, any numeric dtype [N]."""
    meta: pd.DataFrame | None
    """The meta file (see `read_meta`)."""
    appearance: Appearance
    """The scale that the pixels seem to have."""
    scale: Scale
    """The scale that the pixels were read on."""
    mean: np.ndarray
    """Of each cleaned patch, 0..255, float64 [N]."""
    content: np.ndarray
    """A 128-bit digest of each cleaned patch, uint64 [N, 2]."""
    changes: Changes
    """What cleaning changed in each patch."""
    low: float
    """The smallest finite pixel as it is on disk, NaN if there is none."""
    high: float
    channels: ChannelStatistics

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def slides(self) -> np.ndarray | None:
        """The slide id of every patch, object [N] of str, None where it is not known."""
        return None if self.meta is None else self.meta["wsi"].to_numpy(dtype=object)

    def patches(self) -> DirectPatches:
        """The cleaned patches, indexed by row."""
        return DirectPatches(self.files.images, len(self), self.scale)


def scan_split(files: SplitFiles, bar: tqdm, scale: Scale | None = None) -> SplitScan:
    """Read every patch of a split once; `bar` is moved on by patches.

    Pixels are read on `scale`; None means the scale that they seem to have, or 0..255 where that
    is none to read by.

    Raises:
        InputError: the files are damaged beyond reading, or do not belong together.
    """
    labels = read_raw_labels(files)
    seen = appearance(sample(files))
    scale = scale or seen.scale or BYTES
    with open_dataset(files.images, "x") as dataset:
        parts = []
        for part in map_chunks(dataset, files.images, lambda _, raw: _scan(raw, scale)):
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
        appearance=seen,
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
    )


def describe_storage(dataset: h5py.Dataset, path: Path) -> dict[str, Any]:
    """Dtype, layout, bytes on disk, and in words why there are so many."""
    size, plain = path.stat().st_size, dataset.shape[0] * PATCH_BYTES
    item = dataset.dtype.itemsize
    why = []
    if item > 1:
        why.append(f"{dataset.dtype} takes {item} bytes for a value that fits one")
    if dataset.compression:
        packed = dataset.id.get_storage_size() / max(1, dataset.nbytes)
        why.append(f"{dataset.compression} packs it to {packed:.0%}")
    layout = "chunked" if dataset.chunks else "contiguous"
    return {
        "path": path,
        "dtype": str(dataset.dtype),
        "layout": f"{layout} {dataset.chunks}" if dataset.chunks else layout,
        "compression": dataset.compression,
        "bytes": size,
        "bytes_as_uint8": plain,
        "why": "; ".join(why) or "one byte a value, as released",
    }


@dataclass(frozen=True)
class _Chunk:
    mean: np.ndarray
    content: np.ndarray
    changes: Changes
    low: float
    high: float
    channels: ChannelStatistics


def _scan(raw: np.ndarray, scale: Scale) -> _Chunk:
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
    )
