"""Samplers: the division of batches over processes, and the order of images."""

import itertools
from collections import Counter

import numpy as np
import pytest

from cvpods.data import SAMPLERS
from cvpods.data.samplers import (
    BatchPlan,
    InferenceSampler,
    SampleKey,
    TrainingBatchSampler,
    TrainingStream,
)
from cvpods.utils.errors import ConfigError

# -- batch plans -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "total, per_device, world_size, shares",
    [
        (16, 2, 8, ((2,),) * 8),
        (16, 16, 1, ((16,),)),
        (16, 2, 1, ((2,) * 8,)),
        (16, 3, 1, ((3, 3, 3, 3, 2, 2),)),  # ceil(16 / 3) = 6 passes
        (16, 4, 3, ((3, 3), (3, 2), (3, 2))),  # 6 + 5 + 5 images, 2 passes of at most 4
        (5, 8, 2, ((3,), (2,))),
        (3, 2, 2, ((2,), (1,))),
        (16, 1, 3, ((2, 1, 1, 1, 1), (1,) * 5, (1,) * 5)),
        (4, 100, 4, ((1,),) * 4),
        (1, 1, 1, ((1,),)),
    ],
)
def test_plan_hand_cases(total, per_device, world_size, shares):
    plan = BatchPlan.make(total, per_device, world_size)
    assert plan.shares == shares
    assert plan.steps == len(shares[0])


ALL = [
    (total, per_device, world_size)
    for total, per_device, world_size in itertools.product(range(1, 26), range(1, 6), range(1, 9))
    if total >= world_size
]


def test_plans_divide_every_batch():
    """Every image is processed once, and the shares of the processes differ by at most one."""
    for combination in ALL:
        plan = BatchPlan.make(*combination)
        total, _, world_size = combination
        flat = [count for share in plan.shares for count in share]
        assert len(plan.shares) == world_size, combination
        assert {len(share) for share in plan.shares} == {plan.steps}, combination
        assert sum(flat) == total, combination
        assert min(flat) >= 1 and max(flat) - min(flat) <= 1, combination


def test_ranges_partition_the_batch():
    for combination in ALL:
        plan = BatchPlan.make(*combination)
        taken = [p for rank in range(combination[2]) for r in plan.ranges(rank) for p in r]
        assert taken == list(range(combination[0])), combination
        for rank, share in enumerate(plan.shares):
            assert tuple(map(len, plan.ranges(rank))) == share, combination


def test_no_pass_is_larger_than_a_device_takes():
    """A pass has one image more only if uneven shares would otherwise leave a pass empty."""
    for total, per_device, world_size in ALL:
        plan = BatchPlan.make(total, per_device, world_size)
        uneven = per_device == 1 and total % world_size > 0
        assert max(map(max, plan.shares)) <= per_device + uneven, (total, per_device, world_size)


def test_no_more_passes_than_needed():
    """With even shares, the number is ceil(images of a process / images at once)."""
    for total, per_device, world_size in ALL:
        if total % world_size == 0:
            steps = BatchPlan.make(total, per_device, world_size).steps
            assert steps == -(-(total // world_size) // per_device)


@pytest.mark.parametrize(
    "total, per_device, world_size", [(0, 1, 1), (4, 0, 1), (4, 1, 0), (3, 2, 4), (-2, 1, 1)]
)
def test_batches_that_cannot_be_divided(total, per_device, world_size):
    with pytest.raises(ConfigError) as raised:
        BatchPlan.make(total, per_device, world_size)
    for part in (f"IMS_PER_BATCH {total}", f"IMS_PER_DEVICE {per_device}", f"{world_size} process"):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "arguments, said, unsaid",
    [
        ((16, 2, 8), ["16 images", "8 process", "at most 2 images"], "accumulated"),
        ((16, 2, 1), ["16 images", "1 process", "at most 2 images", "over 8 passes"], "over 9"),
    ],
)
def test_plan_description(arguments, said, unsaid):
    words = BatchPlan.make(*arguments).describe()
    assert all(part in words for part in said) and unsaid not in words


# -- the training order ----------------------------------------------------------------------------


def epoch(stream, number=0):
    first = number * stream.epoch_length
    return [stream[first + offset].index for offset in range(stream.epoch_length)]


def mixed_groups(seed=0, size=53):
    return np.random.default_rng(seed).integers(0, 2, size)


def test_ungrouped_epochs_hold_every_image_once():
    stream = TrainingStream(np.zeros(23), block=1, seed=5)
    for number in range(3):
        assert sorted(epoch(stream, number)) == list(range(23))


def test_epochs_and_seeds_differ():
    orders = [
        tuple(epoch(TrainingStream(np.zeros(23), 1, seed), number))
        for seed in (0, 1)
        for number in (0, 1, 2)
    ]
    assert len(set(orders)) == 6


@pytest.mark.parametrize("positions", [range(200), reversed(range(200)), [199, 0, 120, 3, 3]])
def test_order_depends_on_the_position_alone(positions):
    """The order does not depend on earlier reads."""
    expected = [TrainingStream(mixed_groups(), 4, 7)[p] for p in range(200)]
    stream = TrainingStream(mixed_groups(), 4, 7)
    assert all(stream[p] == expected[p] for p in positions)


@pytest.mark.parametrize("block", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [(20, 33), (8, 8), (1, 5), (0, 7), (2, 1)])
def test_blocks_hold_one_group(sizes, block):
    """Every image occurs: once, or more often if its group is not a multiple of the block.

    Groups of a and b images take ceil(a / block) + ceil(b / block) blocks.
    """
    groups = np.random.default_rng(0).permutation(np.repeat([0, 1], sizes))
    stream = TrainingStream(groups, block, seed=3)
    assert stream.epoch_length == block * sum(-(-size // block) for size in sizes)
    for number in range(3):
        order = epoch(stream, number)
        for start in range(0, len(order), block):
            assert len({groups[i] for i in order[start : start + block]}) == 1
        counts = Counter(order)
        assert set(counts) == set(range(len(groups)))
        for group, size in enumerate(sizes):
            repeats = [counts[i] for i in np.flatnonzero(groups == group)]
            assert not repeats or max(repeats) - min(repeats) <= 1 or block > size


def test_blocks_of_the_groups_are_mixed():
    groups = np.repeat([0, 1], 40)
    blocks = [groups[i] for i in epoch(TrainingStream(groups, 4, seed=0))[::4]]
    changes = sum(a != b for a, b in itertools.pairwise(blocks))
    assert changes >= 5


def test_padding_repeats_other_images_each_epoch():
    """With 5 images in blocks of 4, three occur twice; the three vary."""
    stream = TrainingStream(np.zeros(5), 4, seed=0)
    repeated = {
        frozenset(i for i, n in Counter(epoch(stream, e)).items() if n == 2) for e in range(10)
    }
    assert {len(images) for images in repeated} == {3}
    assert len(repeated) > 3


def test_seeds_of_samples_are_unique():
    """They differ between epochs and runs, and are valid seeds for numpy and torch."""
    keys = [TrainingStream(np.zeros(50), 1, seed)[p] for seed in range(4) for p in range(500)]
    assert len({key.seed for key in keys}) == len(keys)
    assert all(isinstance(key, SampleKey) and 0 <= key.seed < 2**32 for key in keys)
    assert {type(value) for key in keys for value in (key.index, key.seed)} == {int}


# -- over processes --------------------------------------------------------------------------------


def batches(plan, rank=0, start_iter=0, iterations=5, seed=11, block=2):
    """Return the samples of each iteration of one process."""
    stream = TrainingStream(mixed_groups(), block, seed)
    batch_sampler = iter(TrainingBatchSampler(stream, plan, rank, start_iter))
    return [
        list(itertools.chain(*(next(batch_sampler) for _ in range(plan.steps))))
        for _ in range(iterations)
    ]


def everywhere(total, per_device, world_size, **kwargs):
    """Return the samples of each iteration of all processes, in the order of the ranks."""
    plan = BatchPlan.make(total, per_device, world_size)
    ranks = [batches(plan, rank, **kwargs) for rank in range(world_size)]
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("per_device", [2, 3, 8])
def test_an_iteration_is_the_same_on_any_number_of_processes(world_size, per_device):
    """Iteration i takes positions 8 i .. 8 i + 7 of the stream, images and augmentation."""
    stream = TrainingStream(mixed_groups(), 2, 11)
    expected = [[stream[8 * i + p] for p in range(8)] for i in range(5)]
    assert everywhere(8, per_device, world_size) == expected


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("start", [1, 3, 20])
def test_resuming_equals_not_having_stopped(world_size, start):
    """53 images in batches of 8: iteration 20 is in the third epoch."""
    whole = everywhere(8, 2, world_size, iterations=start + 4)
    assert everywhere(8, 2, world_size, start_iter=start, iterations=4) == whole[start:]


def test_no_image_is_lost_between_batches_and_epochs():
    """23 images in batches of 8: 23 iterations are 8 epochs."""
    stream = TrainingStream(np.zeros(23), 1, 0)
    batch_sampler = iter(TrainingBatchSampler(stream, BatchPlan.make(8, 8, 1)))
    counts = Counter(key.index for _ in range(23) for key in next(batch_sampler))
    assert counts == dict.fromkeys(range(23), 8)


def test_start_may_be_set_late():
    """The runner sets the start after the loader is built."""
    plan = BatchPlan.make(8, 8, 1)
    sampler = TrainingBatchSampler(TrainingStream(mixed_groups(), 2, 11), plan)
    sampler.start_iter = 3
    assert next(iter(sampler)) == batches(plan, start_iter=3, iterations=1)[0]
    assert next(iter(sampler)) == batches(plan, start_iter=3, iterations=1)[0]


def test_each_pass_of_a_device_has_one_orientation():
    """Four processes of 2 images, blocks of 2: little padding everywhere."""
    groups = mixed_groups()
    plan = BatchPlan.make(8, 2, 4)
    for rank in range(4):
        for keys in batches(plan, rank, iterations=20):
            assert len({groups[key.index] for key in keys}) == 1


@pytest.mark.parametrize("name, block", [("DistributedGroupSampler", 4), ("TrainingSampler", 1)])
def test_registered_samplers(name, block):
    """Grouped: 3 + 5 images in blocks of 4 are 12 positions; plain: 8."""
    stream = SAMPLERS.get(name)(np.repeat([0, 1], (3, 5)), 4, 9)
    assert (stream.block, stream.seed) == (block, 9)
    assert stream.epoch_length == (12 if block == 4 else 8)


# -- the test order --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 100, 4952])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 8])
def test_shards_partition_the_test_set(size, world_size):
    """Shards are in order, and their sizes differ by one at most."""
    shards = [InferenceSampler(size, rank, world_size) for rank in range(world_size)]
    assert [i for shard in shards for i in shard] == list(range(size))
    lengths = [len(shard) for shard in shards]
    assert lengths == [len(list(shard)) for shard in shards]
    assert max(lengths) - min(lengths) <= 1


def test_test_order_can_be_iterated_twice():
    sampler = InferenceSampler(5, 1, 2)
    assert list(sampler) == list(sampler) != []
