"""What is trained of a network: the weights with gradients, and nothing else."""

from typing import Any

from torch import Tensor, nn

from anyscene.models.sharding import shared_like


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The weights with gradients."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def trained_names(network: nn.Module) -> set[str]:
    """The names of the weights with gradients."""
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights with gradients by their names."""
    return select(network.state_dict(), trained_names(network))


def select(state: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Those entries of a state that have one of the names, in the state's order."""
    return {name: value for name, value in state.items() if name in names}


def load_named(network: nn.Module, names: set[str], state: dict[str, Any]) -> Any:
    """Load the weights `names` of a network, of which a sharded one takes this rank's share.

    Raises `RuntimeError` where `state` has others.
    """
    if names != state.keys():
        missing, unknown = sorted(names - state.keys()), sorted(state.keys() - names)
        raise RuntimeError(
            f"Missing keys: {len(missing)}, unknown keys: {len(unknown)} of trained weights, such "
            f"as {', '.join([*missing, *unknown][:3])}"
        )
    own = dict(network.named_parameters())
    shares = {name: shared_like(value, own[name]) for name, value in state.items()}
    return network.load_state_dict(shares, strict=False)
