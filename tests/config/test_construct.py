"""Objects get plain containers from a config."""

import torch

from pcam_lightning.config.construct import construct


def test_lists_of_a_config_are_plain_lists() -> None:
    """An optimizer keeps its arguments in the checkpoint, which may hold plain containers only."""
    section = {"_target_": "torch.optim.NAdam", "_partial_": True, "betas": [0.8, 0.9]}
    optimizer = construct(section, "optimizer")([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer.state_dict()["param_groups"][0]["betas"]) is list
