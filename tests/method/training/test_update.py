"""The two-step update: the released trajectory, a naive step, its schedule, and two ranks against one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

from ccvid.losses.clothes_adversarial import clothes_adversarial_loss
from ccvid.losses.pairs import contrastive_loss, pair_circle_loss, pair_cosface_loss, triplet_loss
from ccvid.model import ClothesMemory, CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.training.cal_update import BatchLoss, CalUpdate, PairTerm
from ccvid.training.clothes_heads import ClothesHead, ClothesMemoryHead
from ccvid.training.update_result import UpdateResult
from tests.method.released_trajectory import EXPECTED, ReleasedTrajectory
from video_backbones.factory import build_backbone

OWNER_N = torch.tensor([0, 0, 1, 1, 1, 2])
PERSON_B = torch.tensor([0, 0, 1, 1, 2, 2, 1, 0])
CLOTHES_B = torch.tensor([0, 1, 3, 4, 5, 5, 2, 0])


def test_four_updates_equal_the_released_trajectory() -> None:
    trajectory = ReleasedTrajectory()
    for step, losses in enumerate(trajectory.updates()):
        np.testing.assert_allclose(losses, EXPECTED[f"step{step}"], rtol=1e-9)
    scale = np.abs(EXPECTED["final_features"]).max()
    np.testing.assert_allclose(trajectory.features(), EXPECTED["final_features"], rtol=1e-9, atol=1e-9 * scale)
    weight = trajectory.clothes_classifier.weight.detach()[:, :64].numpy()
    np.testing.assert_allclose(weight, EXPECTED["clothes_head_after"], rtol=1e-9, atol=1e-11)


def small_update(
    *,
    clothes: bool = True,
    memory: bool = False,
    pair: BatchLoss | None = None,
    seed: int = 0,
    clip_norm: float | None = None,
    world_size: int = 1,
) -> CalUpdate:
    """SGD on a half-width ResNet-18 in float64 that normalises by its running statistics."""
    torch.manual_seed(seed)
    backbone = build_backbone("c2d_resnet18_slim", weights="random")
    model = ReIdModel(backbone, IdentityClassifier(backbone.feature_size, 3)).double().eval()
    classifier = CosineClassifier(backbone.feature_size, len(OWNER_N)).double()
    wrap = DistributedDataParallel if world_size > 1 else lambda module: module
    head: ClothesHead | ClothesMemoryHead | None = None
    if memory:
        bank = ClothesMemory(backbone.feature_size, len(OWNER_N), momentum=0.2).double()
        head = ClothesMemoryHead(bank, OWNER_N, world_size=world_size)
    elif clothes:
        head = ClothesHead(wrap(classifier), torch.optim.SGD(classifier.parameters(), lr=0.5), OWNER_N)
    return CalUpdate(
        wrap(model),
        torch.optim.SGD(model.parameters(), lr=0.01),
        head,
        pair=None if pair is None else PairTerm(loss=pair, weight=0.5, world_size=world_size),
        clip_norm=clip_norm,
    )


def small_frames(step: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(len(PERSON_B), 2, 3, 32, 16, dtype=torch.float64, generator=generator)


def classifier_of(update: CalUpdate) -> CosineClassifier:
    assert isinstance(update.clothes, ClothesHead)
    return update.clothes.bare


def state_of(update: CalUpdate) -> dict[str, Tensor]:
    parts = {"model": update.model}
    if update.clothes is not None:
        parts["clothes"] = classifier_of(update) if isinstance(update.clothes, ClothesHead) else update.clothes.memory
    return {
        f"{part}.{name}".replace("module.", ""): value.detach().clone()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def test_one_update_equals_a_naive_one() -> None:
    update, twin = small_update(), small_update()
    frames = small_frames()
    result = update(frames, PERSON_B, CLOTHES_B, train_clothes=True, adversarial=True)

    model, classifier = twin.model, classifier_of(twin)
    feature, logits = model(frames)
    logits_clothes = 16 * normalize(feature.detach()) @ normalize(classifier.weight).T
    clothes_loss = cross_entropy(logits_clothes, CLOTHES_B)
    (clothes_gradient,) = torch.autograd.grad(clothes_loss, classifier.weight)
    with torch.no_grad():
        classifier.weight.sub_(0.5 * clothes_gradient)
    cosine = normalize(feature) @ normalize(classifier.weight.detach()).T
    same_person = OWNER_N[CLOTHES_B][:, None] == OWNER_N
    adversarial = clothes_adversarial_loss(cosine, CLOTHES_B, same_person)
    identity = cross_entropy(logits, PERSON_B)
    gradients = torch.autograd.grad(identity + adversarial, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.sub_(0.01 * gradient)

    after, expected = state_of(update), state_of(twin)
    assert after.keys() == expected.keys()
    for name, value in after.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=name)
    torch.testing.assert_close(result.losses["identity"], identity.detach())
    torch.testing.assert_close(result.losses["clothes"], clothes_loss.detach())
    torch.testing.assert_close(result.losses["adversarial"], adversarial.detach())
    torch.testing.assert_close(classifier_of(update).weight.grad, clothes_gradient)  # step 2 added nothing


def run(update: CalUpdate, *, train_clothes: bool, adversarial: bool) -> tuple[UpdateResult, dict[str, Tensor]]:
    result = update(small_frames(), PERSON_B, CLOTHES_B, train_clothes=train_clothes, adversarial=adversarial)
    return result, state_of(update)


def test_before_its_start_the_clothes_loss_is_only_computed() -> None:
    update = small_update()
    before = state_of(update)["clothes.weight"]
    result, after = run(update, train_clothes=False, adversarial=False)
    _, baseline = run(small_update(clothes=False), train_clothes=False, adversarial=False)
    assert result.losses["clothes"] > 0
    assert "adversarial" not in result.losses
    assert torch.equal(after["clothes.weight"], before)
    assert all(torch.equal(after[name], value) for name, value in baseline.items())


def test_the_clothes_classifier_may_train_before_it_is_used() -> None:
    update = small_update()
    before = state_of(update)["clothes.weight"]
    _, after = run(update, train_clothes=True, adversarial=False)
    _, baseline = run(small_update(clothes=False), train_clothes=False, adversarial=False)
    assert not torch.equal(after["clothes.weight"], before)
    assert all(torch.equal(after[name], value) for name, value in baseline.items())


def test_the_adversarial_loss_moves_the_backbone_alone() -> None:
    update = small_update()
    before = state_of(update)["clothes.weight"]
    _, after = run(update, train_clothes=False, adversarial=True)
    _, baseline = run(small_update(clothes=False), train_clothes=False, adversarial=False)
    name = "model.identity_classifier.classifier.weight"
    assert torch.equal(after["clothes.weight"], before)
    assert torch.equal(after[name], baseline[name])
    assert not torch.equal(after["model.backbone.conv1.weight"], baseline["model.backbone.conv1.weight"])


def test_baseline_reports_no_clothes() -> None:
    result, _ = run(small_update(clothes=False), train_clothes=True, adversarial=True)
    assert "clothes" not in result.losses
    assert "adversarial" not in result.losses


def test_the_pair_loss_is_added_with_its_weight() -> None:
    pair = partial(triplet_loss, margin=0.3)
    result, after = run(small_update(pair=pair), train_clothes=True, adversarial=True)
    _, without = run(small_update(), train_clothes=True, adversarial=True)
    twin = small_update().model
    feature, _ = twin(small_frames())
    loss = pair(feature, PERSON_B)
    torch.testing.assert_close(result.losses["pair"], loss.detach())
    assert loss > 0
    name = "model.backbone.conv1.weight"
    (gradient,) = torch.autograd.grad(loss, dict(twin.named_parameters())[name.removeprefix("model.")])
    torch.testing.assert_close(after[name] - without[name], -0.01 * 0.5 * gradient, rtol=1e-7, atol=1e-12)


def test_the_memory_fills_before_it_acts() -> None:
    update = small_update(memory=True)
    result, after = run(update, train_clothes=False, adversarial=False)
    _, baseline = run(small_update(clothes=False), train_clothes=False, adversarial=False)
    assert "clothes" not in result.losses
    assert "adversarial" not in result.losses
    assert after["clothes.weight"].any(dim=1).tolist() == [True] * 6
    assert all(torch.equal(after[name], value) for name, value in baseline.items())
    result, _ = run(update, train_clothes=True, adversarial=True)
    assert result.losses["adversarial"] > 0


def test_results_are_detached_and_accuracy_counts() -> None:
    update = small_update()
    frames = small_frames()
    _, logits = update.model(frames)
    expected = (logits.argmax(dim=1) == PERSON_B).double().mean().item()
    result = update(frames, PERSON_B, CLOTHES_B, train_clothes=True, adversarial=True)
    assert result.identity_accuracy.item() == pytest.approx(expected)
    for value in (result.losses["identity"], result.losses["clothes"], result.losses["adversarial"]):
        assert value is not None
        assert not value.requires_grad


def test_clipping_bounds_the_step() -> None:
    before = state_of(small_update())
    _, free = run(small_update(), train_clothes=True, adversarial=True)
    _, clipped = run(small_update(clip_norm=0.5), train_clothes=True, adversarial=True)

    def length(after: dict[str, Tensor]) -> float:
        moved = [after[n] - value for n, value in before.items() if n.startswith("model") and value.ndim]
        return float(torch.cat([step.flatten() for step in moved]).norm())

    assert length(free) > 0.01 * 0.5
    assert length(clipped) == pytest.approx(0.01 * 0.5, rel=1e-4)
    assert torch.equal(free["clothes.weight"], clipped["clothes.weight"])


def test_bf16_learns_the_batch() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("c2d_resnet18_slim", weights="random")
    model = ReIdModel(backbone, IdentityClassifier(256, 3), autocast_dtype=torch.bfloat16)
    classifier = CosineClassifier(256, len(OWNER_N))
    update = CalUpdate(
        model,
        torch.optim.Adam(model.parameters(), lr=1e-3),
        ClothesHead(classifier, torch.optim.Adam(classifier.parameters(), lr=1e-3), OWNER_N),
    )
    frames = small_frames().float()
    results = [update(frames, PERSON_B, CLOTHES_B, train_clothes=True, adversarial=True) for _ in range(12)]
    assert results[0].losses["identity"].dtype == torch.float32
    assert results[-1].losses["identity"] < 0.5 * results[0].losses["identity"]
    assert results[-1].identity_accuracy == 1
    assert all(p.dtype == torch.float32 and p.grad is not None for p in model.parameters())


CASES: dict[str, tuple[bool, BatchLoss | None]] = {
    "CAL": (False, None),
    "memory": (True, None),
    "triplet": (False, partial(triplet_loss, margin=0.3)),
    "contrastive": (False, partial(contrastive_loss, scale=16.0)),
    "cosface": (False, partial(pair_cosface_loss, scale=16.0, margin=0.3)),
    "memory and circle": (True, partial(pair_circle_loss, scale=16.0, margin=0.3)),
}
"""Whether a memory replaces the clothes classifier, and the pair loss."""


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(4 * rank, 4 * rank + 4)
    states = {}
    for name, (memory, pair) in CASES.items():
        # DDP takes rank 0's weights.
        update = small_update(memory=memory, pair=pair, world_size=2, seed=rank, clip_norm=1.0)
        for step, started in enumerate((False, True, True)):
            frames = small_frames(step)[mine]
            update(frames, PERSON_B[mine], CLOTHES_B[mine], train_clothes=started, adversarial=started)
        states[name] = state_of(update)
    torch.save(states, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    spawn(_rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    found = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for case, (memory, pair) in CASES.items():
        alone = small_update(memory=memory, pair=pair, clip_norm=1.0)
        for step, started in enumerate((False, True, True)):
            alone(small_frames(step), PERSON_B, CLOTHES_B, train_clothes=started, adversarial=started)
        expected = state_of(alone)
        for states in found:
            assert states[case].keys() == expected.keys()
            for name, value in states[case].items():
                torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11, msg=f"{case} {name}")
