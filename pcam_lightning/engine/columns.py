"""Columns of results that grow a batch at a time."""

import torch
from torch import Tensor


class Columns:
    """Columns that are collected a batch at a time, on any device, without waiting for it.

    They are copied into a few long tensors. Small tensors between the activations of one batch and
    the next would split the heap, whose memory would grow with every batch.

    Args:
        capacity: rows of each long tensor.
    """

    def __init__(self, capacity: int = 1 << 15) -> None:
        self._capacity = capacity
        self._parts: list[list[Tensor]] = []
        self._used = 0

    def add(self, *batch: Tensor) -> None:
        """Append a tensor [B, ...] to each column."""
        for rows in zip(*(column.split(self._capacity) for column in batch), strict=True):
            count = len(rows[0])
            if not self._parts or self._used + count > self._capacity:
                self._end_part()
                empty = [each.new_empty(self._capacity, *each.shape[1:]) for each in rows]
                self._parts.append(empty)
            for column, values in zip(self._parts[-1], rows, strict=True):
                column[self._used : self._used + count] = values
            self._used += count

    def pop(self) -> list[Tensor]:
        """Return the columns, [N, ...] each, and forget them; an empty list if there are none."""
        self._end_part()
        columns = [torch.cat(column) for column in zip(*self._parts, strict=True)]
        self._parts = []
        return columns

    def _end_part(self) -> None:
        if self._parts:
            self._parts[-1] = [column[: self._used] for column in self._parts[-1]]
        self._used = 0
