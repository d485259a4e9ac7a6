"""Comparison of the rows of two H5 files."""

import numpy as np

from pcam_lightning.data.files import SplitFiles, chunk_rows, open_dataset, read_rows
from pcam_lightning.data.identity import is_content
from pcam_lightning.errors import InputError

SHOWN_ROWS = 5


def changed_rows(
    one: tuple[SplitFiles, str], other: tuple[SplitFiles, str], part: str
) -> list[str]:
    """Describe the differences between two H5 files of the same split; empty if they are equal.

    Equal data can have different digests, if they were computed by different rules.

    Args:
        one: the files of the split, and the digest that the file had when it was used.
        other: the same for the other file.
        part: "x", patches, or "y", labels.
    """
    try:
        for files, digest in (one, other):
            if not files.has(part) or not is_content(files, part, digest):
                return [f"{files.path(part)} has changed since it was used"]
        return _changed_rows(one[0], other[0], part)
    except InputError as error:
        return [str(error)]


def _changed_rows(one: SplitFiles, other: SplitFiles, part: str) -> list[str]:
    with open_dataset(one, part) as first, open_dataset(other, part) as second:
        kinds = [f"{each.dtype} {list(each.shape)}" for each in (first, second)]
        if first.shape != second.shape:
            return [" and ".join(kinds)]
        messages = [] if first.dtype == second.dtype else [" and ".join(kinds)]
        step, found = chunk_rows(first), 0
        for start in range(0, first.shape[0], step):
            a = read_rows(first, one.path(part), start, start + step)
            b = read_rows(second, other.path(part), start, start + step)
            differs = (a != b) & ~((a != a) & (b != b))  # NaN equals NaN
            rows = np.flatnonzero(differs.reshape(len(a), -1).any(axis=1))
            for row in rows[: max(0, SHOWN_ROWS - found)]:
                place = tuple(int(i) for i in np.argwhere(differs[row])[0])
                values = f"{a[row][place]:g} and {b[row][place]:g}"
                count = int(differs[row].sum())
                number = "1 value" if count == 1 else f"{count:,} values"
                messages.append(f"row {start + row}: {number}, first {list(place)}: {values}")
            found += len(rows)
        if not found:
            return messages
        verb = "differs" if found == 1 else "differ"
        messages.append(f"{found:,} of {first.shape[0]:,} rows {verb}")
    return messages
