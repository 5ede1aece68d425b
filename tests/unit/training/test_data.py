import numpy as np
import pytest
import torch

from trainer import config, resolve
from trainer.errors import DataError
from trainer.training import data

ON = torch.device("cpu")


def samples(count):
    """Samples whose label is their index, so that it can be seen where each went."""
    images = torch.randint(0, 256, (count, 784), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return data.Samples(images, torch.arange(count))


def seen(count, batch, epoch=1, world_size=1, start=0, **settings):
    """Labels of each step, the ranks' shares put together, sorted."""
    resolved = resolve.load(None, None, [f"global_batch_size={batch}", *[f"{k}={v}" for k, v in settings.items()]])
    ranks = [list(data.Batches(samples(count), resolved, epoch, r, world_size, start)) for r in range(world_size)]
    return [sorted(torch.cat([batch.labels for batch in step]).tolist()) for step in zip(*ranks, strict=True)]


def test_an_epochs_order_has_each_sample_once_and_depends_on_seed_and_epoch_alone():
    order = data.sample_order(3, 5, 1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert torch.equal(order, data.sample_order(3, 5, 1000))
    assert not torch.equal(order, data.sample_order(3, 6, 1000))
    assert not torch.equal(order, data.sample_order(4, 5, 1000))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_workers_sees_the_same_global_batches(world_size):
    assert seen(1003, 24, world_size=world_size) == seen(1003, 24)


def test_an_epoch_has_each_sample_once_with_a_smaller_last_batch():
    steps = seen(1003, 24)
    assert sorted(label for step in steps for label in step) == list(range(1003))
    assert [len(step) for step in steps] == [24] * 41 + [19]


def test_starting_in_the_middle_of_an_epoch_gives_the_rest_of_it():
    assert seen(1003, 24, start=10) == seen(1003, 24)[10:]


def test_the_ranks_weights_make_their_mean_the_mean_over_all_samples():
    resolved = resolve.load(None, None, ["global_batch_size=4"])
    ranks = [list(data.Batches(samples(7), resolved, 1, rank, 2)) for rank in range(2)]
    for step in zip(*ranks, strict=True):
        values = [batch.labels.double() for batch in step]
        mean_of_ranks = sum(batch.weight * value.mean() for batch, value in zip(step, values, strict=True)) / 2
        assert mean_of_ranks == pytest.approx(float(torch.cat(values).mean()))


def test_a_rank_may_get_none_of_the_last_batch():
    resolved = resolve.load(None, None, ["global_batch_size=4"])
    last = [list(data.Batches(samples(5), resolved, 1, rank, 2))[-1] for rank in range(2)]
    assert [(len(batch.labels), batch.weight) for batch in last] == [(1, 2.0), (0, 0.0)]


def test_normalising_is_torchvisions_arithmetic_bit_by_bit():
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = torch.arange(256, dtype=torch.uint8).repeat(4)[:784].view(1, 784)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    expected = theirs(pixels.view(28, 28, 1).numpy()).view(1, 784)
    assert torch.equal(data.normalise(pixels, resolve.load("seed").data), expected)


@pytest.mark.parametrize("how", ["data.flip=random", "data.flip=alternating", "data.shift_pixels=2"])
def test_augmentation_of_a_sample_does_not_depend_on_the_number_of_workers(how):
    resolved = resolve.load(None, None, ["global_batch_size=8", how])
    whole = {
        int(label): image
        for batch in data.Batches(samples(50), resolved, 2)
        for label, image in zip(batch.labels, batch.images, strict=True)
    }
    for rank in range(2):
        for batch in data.Batches(samples(50), resolved, 2, rank, 2):
            for label, image in zip(batch.labels, batch.images, strict=True):
                assert torch.equal(image, whole[int(label)])


def test_alternating_flips_show_both_sides_of_every_image_in_two_epochs():
    settings = resolve.load(None, None, ["data.flip=alternating"]).data
    mirrored = []
    for epoch in (1, 2):
        order = data.sample_order(0, epoch, 500)
        by_sample = torch.empty(500, dtype=torch.bool)
        by_sample[order] = data.flips(settings, 0, epoch, order)
        mirrored.append(by_sample)
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert 150 < int(mirrored[0].sum()) < 350


def test_mirror_reverses_the_columns_of_the_chosen_images_only():
    images = samples(2).images
    result = data.mirror(images, torch.tensor([True, False])).view(2, 28, 28)
    assert torch.equal(result[0], images[0].view(28, 28).flip(1))
    assert torch.equal(result[1], images[1].view(28, 28))


def test_shift_moves_down_and_right_and_fills_with_background():
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 10, 10] = 200
    moved = data.shift(image.view(1, 784), torch.tensor([[2 + 1, 2 - 2]]), 2).view(28, 28)
    assert int(moved[11, 8]) == 200
    assert int(moved.sum()) == 200


def test_the_real_data_set_is_what_it_should_be(data_folder):
    train, test = data.load(data_folder)
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((60_000, 784), (10_000, 784))
    assert train.images.dtype == torch.uint8
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    pixels = train.images.float() / 255
    defaults = config.Config().data
    assert (float(pixels.mean()), float(pixels.std())) == pytest.approx((defaults.mean, defaults.std), abs=1e-4)


def test_a_validation_split_is_cut_from_the_training_set_and_the_test_set_is_left_alone(data_folder):
    whole, test = data.load(data_folder)
    train, validation = data.load(data_folder, validation_samples=10_000)
    assert (len(train), len(validation)) == (50_000, 10_000)
    assert torch.equal(validation.images, whole.images[50_000:])
    assert not torch.equal(validation.labels, test.labels)


def test_a_file_that_is_not_idx_is_refused_by_name(tmp_path):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(np.zeros(100, np.uint8).tobytes())
    with pytest.raises(DataError, match="train-images-idx3-ubyte does not begin as an IDX file"):
        data.load(tmp_path)


def test_shares_of_a_test_set_are_disjoint_and_complete():
    parts = [data.share(samples(11), rank, 3) for rank in range(3)]
    assert sorted(torch.cat([part.labels for part, _ in parts]).tolist()) == list(range(11))
    for part, positions in parts:
        assert torch.equal(part.labels, positions)
