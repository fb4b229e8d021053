"""The kinds of values that a recipe's settings take besides plain ones, each with its check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError

from ccvid.loss_choices import IDENTITY_LOSSES, PAIR_LOSSES
from ccvid.method_choices import METHODS
from data_tools.datasets.released import RELEASED_SETS
from data_tools.options import absolute_path
from data_tools.wording import shown

if TYPE_CHECKING:
    DatasetKind = str
    IdentityLossName = str
    MethodName = str
    PairLossName = str
else:  # what there is, the tables say
    DatasetKind = Literal[("synthetic", *RELEASED_SETS, "footage", "clips")]
    IdentityLossName = Literal[tuple(IDENTITY_LOSSES)]
    MethodName = Literal[tuple(METHODS)]
    PairLossName = Literal[("none", *PAIR_LOSSES)]


def _one_or_range(workers: object) -> object:
    """A number, also in a list of one as the command line gives it, or a range."""
    if workers is None:
        return None
    numbers = map(str, workers if isinstance(workers, list | tuple) else [workers])
    counts = [int(number) if number.isdecimal() else 0 for number in numbers]
    if len(counts) not in (1, 2) or not 1 <= counts[0] <= counts[-1]:
        raise ValueError(f"expected a number of workers such as 8, or a range such as [2, 8], got {shown(workers)}")
    return counts[0] if len(counts) == 1 else tuple(counts)


WorkerCount = Annotated[int | tuple[int, int], BeforeValidator(_one_or_range)]


def _check_tracking_uri(uri: str) -> str:
    if uri.startswith(("http://", "https://")):
        return uri
    path = uri.removeprefix("sqlite:///")
    if "://" in path:
        raise ValueError(f"expected the http:// or https:// address of a server, or a path, got {shown(uri)}")
    return f"sqlite:///{absolute_path(Path(path))}"  # workers run in folders of their own


TrackingUri = Annotated[str, AfterValidator(_check_tracking_uri)]


def _auto_or_bool(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        raise ValueError(f"expected auto, true or false, got {shown(value)}") from None


AutoOrBool = Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)]
