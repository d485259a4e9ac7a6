"""Channel statistics of a network, from its training data."""

from torch import nn

from pcam_lightning.data.datamodule import PCamDataModule
from pcam_lightning.errors import InputError
from pcam_lightning.models import Normalize


def set_normalization(network: nn.Module, datamodule: PCamDataModule) -> None:
    """Set a network's channel statistics by `normalize` of the data module; "auto" keeps them.

    Raises:
        InputError: `normalize` is "train", and the network has no layer `normalize`.
    """
    if datamodule.normalize == "auto":
        return
    layer = getattr(network, "normalize", None)
    if isinstance(layer, Normalize):
        layer.set(*datamodule.channel_statistics)
    elif datamodule.normalize != "symmetric":
        raise InputError(
            f"data.normalize={datamodule.normalize}: {type(network).__name__} has no "
            "pcam_lightning.models.Normalize named normalize; expected data.normalize=auto"
        )
