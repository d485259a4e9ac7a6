"""Classification by nearest neighbors in cosine similarity."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

SIMILARITIES = 2**25
"""Similarities that are held at a time: 134 MB as float32."""


def neighbor_shares(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    counts: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the share of tumour among the k training rows most similar to each query.

    Args:
        train: float32 [N, F]; its rows are scaled to norm 1 in place.
        labels: 0 or 1, [N].
        queries: float32 [Q, F].
        counts: the values of k, each at most N.
        dtype: of the similarities; bfloat16 rounds as the forward pass in this precision does.

    Returns float32 [Q, K].
    """
    train = normalize(train, dim=1, out=train).to(dtype)
    size = max(1, SIMILARITIES // len(train))
    places = torch.as_tensor(counts, device=train.device) - 1
    shares = []
    for part in normalize(queries, dim=1).to(dtype).split(size):
        nearest = (part @ train.T).topk(max(counts), dim=1).indices
        tumours = labels[nearest].cumsum(dim=1)[:, places]
        shares.append(tumours / (places + 1))
    return torch.cat(shares)
