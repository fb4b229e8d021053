"""The optimizer of a module, and the groups of parameters that learn or decay at rates of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ccvid.optim_options import OptimOptions
from data_tools.errors import InputError

TOKENS_AND_PLACES = ("token", "pos_embed", "temporal", "extra")
"""Words in the names of parameters that no input is multiplied with: class tokens, position tables and the like."""


TAIL = ("norm", "spatial_pool", "temporal_pool", "bn")
"""What follows the blocks wherever it is registered: final norm, pools and neck."""


def build_optimizer(options: OptimOptions, learning_rate: float, module: nn.Module) -> Optimizer:
    """The recipe's optimizer of all parameters of a module.

    A group keeps the peak of its learning rate as ``peak_lr``, which schedules start from. Without settings that tell
    parameters apart there is one group, in the module's order.

    Args:
        learning_rate: Peak rate of parameters that no setting gives another one.

    Raises:
        InputError: the recipe asks for layer-wise decay of a network without blocks.
    """
    groups = parameter_groups(options, learning_rate, module)
    fused = options.fused or None  # PyTorch has them for CPUs and GPUs; False would also turn off its other fast ways
    make: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(groups, learning_rate, fused=fused),
        "adamw": lambda: AdamW(groups, learning_rate, fused=fused),
        "sgd": lambda: SGD(groups, learning_rate, momentum=options.momentum, fused=fused),
    }
    return make[options.name]()


def parameter_groups(options: OptimOptions, learning_rate: float, module: nn.Module) -> list[dict[str, Any]]:
    """A group for each pair of learning rate and weight decay, in the order of their first parameters.

    A parameter's rate is ``learning_rate``, times ``bias_rate`` with "bias" in its name, times ``layer_decay`` for each
    layer above it.
    """
    above = {} if options.layer_decay is None else layers_above(module)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        rate = learning_rate * (options.bias_rate if "bias" in name else 1)
        if options.layer_decay is not None:
            rate *= options.layer_decay ** above[name]
        decay = options.weight_decay if options.decay_all or _is_weight(name, parameter) else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def layers_above(module: nn.Module) -> Mapping[str, int]:
    """How many layers lie between each parameter and the output of a network that is a list of ``blocks``.

    1 for the last of L blocks, L for the first, and L + 1 for what comes before them: patch embedding, tokens and
    position tables, that is the network's own parameters and its children that are registered before the blocks. 0 for
    all else: final norm, pools, neck and heads. A module without children, such as a classifier, is all head.

    Raises:
        InputError: not exactly one module has ``blocks``.
    """
    above = dict.fromkeys((name for name, _ in module.named_parameters()), 0)
    if not any(module.children()):
        return above
    place, network, blocks = _only_blocks(module)
    children, block_names = ([name for name, _ in one.named_children()] for one in (network, blocks))
    heads = [*children[children.index("blocks") + 1 :], *TAIL]
    for name in above:
        child, *within = name.removeprefix(place).split(".")
        if not name.startswith(place) or child in heads:
            continue
        above[name] = len(blocks) - block_names.index(within[0]) if child == "blocks" else len(blocks) + 1
    return above


def _only_blocks(module: nn.Module) -> tuple[str, nn.Module, nn.ModuleList | nn.Sequential]:
    """What precedes the names of the network that has ``blocks``, the network, and the blocks."""
    found = []
    for place, network in module.named_modules():
        blocks = getattr(network, "blocks", None)
        if isinstance(blocks, nn.ModuleList | nn.Sequential):
            found.append((f"{place}." if place else "", network, blocks))
    if len(found) != 1:
        raise InputError(
            "optim.layer_decay needs a network with one list of blocks, such as timm/vit_small_patch16_224; this one "
            f"has {len(found) or 'none'}"
        )
    return found[0]


def _is_weight(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix or filter that multiplies inputs: no bias, norm, token or position table."""
    own_name = name.rpartition(".")[2]
    return parameter.ndim > 1 and not any(word in own_name for word in TOKENS_AND_PLACES)
