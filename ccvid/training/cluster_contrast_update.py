"""One training step without person labels: contrast with the centroids of the classes that were found."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

from ccvid.cluster_contrast_options import ClusterContrastOptions
from ccvid.losses.cluster_contrast import cluster_contrast_loss
from ccvid.training.cal_update import PairTerm
from ccvid.training.distributed import gather_batch
from ccvid.training.other_clothes import in_other_clothes
from ccvid.training.pseudo_identities import PseudoIdentities
from ccvid.training.update_result import UpdateResult
from data_tools.transforms import normalise


class ClusterContrastUpdate:
    """Updates the network, then the centroids.

    Args:
        model: A `ReIdModel` whose classifier passes features on, bare, compiled or in DistributedDataParallel.
        optimizer: Updates all of its parameters.
        identities: Classes and centroids, equal on all ranks, and kept equal.
        options: Temperature and changes of clothes.
        pair: L_pair between clips of a class, added with its weight; None: not used.
        world_size: Number of ranks.
        clip_norm: Largest norm of the gradient; None: no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        identities: PseudoIdentities,
        options: ClusterContrastOptions,
        *,
        pair: PairTerm | None = None,
        world_size: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.identities = identities
        self.options = options
        self.pair = pair
        self.world_size = world_size
        self.clip_norm = clip_norm

    def __call__(self, frames_BTCHW: Tensor, tracklet_B: Tensor) -> UpdateResult:
        """Run the update for one batch.

        Args:
            frames_BTCHW: (B, T, 3, H, W) uint8 frames on the model's device.
            tracklet_B: (B,) int64 numbers of the clips' training tracklets.
        """
        found = self.identities
        self.optimizer.zero_grad()  # before activations need the memory
        feature_BD, _ = self.model(normalise(in_other_clothes(frames_BTCHW, self.options.other_clothes)))
        cosine_BM, own_BM = found.cosines(feature_BD), found.own(tracklet_B)
        losses = {
            "cluster": cluster_contrast_loss(
                cosine_BM,
                own_BM,
                found.camera_M,
                found.cameras,
                temperature=self.options.temperature,
                spared=self.options.spared,
            )
        }
        loss = losses["cluster"]
        if self.pair is not None:
            losses["pair"] = self.pair(feature_BD, found.class_N[tracklet_B])
            loss = loss + self.pair.weight * losses["pair"]
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        found.learn(gather_batch(feature_BD.detach(), self.world_size), gather_batch(tracklet_B, self.world_size))
        nearest_B = cosine_BM.masked_fill(found.camera_M < 0, -1).argmax(dim=1)
        return UpdateResult(
            {name: value.detach() for name, value in losses.items()},
            identity_accuracy=own_BM.gather(1, nearest_B[:, None]).float().mean(),
        )
