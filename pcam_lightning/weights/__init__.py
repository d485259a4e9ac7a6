"""Files of weights: checked readers, digests, and the places of pretrained weights."""
