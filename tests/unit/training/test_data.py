import numpy as np
import pytest
import torch

from trainer import config, resolve
from trainer.errors import DataError
from trainer.training import data

ON = torch.device("cpu")


def samples(count):
    """Return samples whose label is their index, so that a test sees where each went."""
    images = torch.randint(0, 256, (count, 784), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return data.Samples(images, torch.arange(count))


def stream(count, batch, *settings, rank=0, world_size=1, start=0, skipped=()):
    """Return what one rank's stream yields; of one epoch, unless `settings` say otherwise."""
    resolved = resolve.load(None, None, [f"global_batch_size={batch}", "epochs=1", *settings])
    return list(data.stream(samples(count), resolved, rank, world_size, start, skipped))


def batches(*arguments, **options):
    """Return the batches of a stream, without the ends of its epochs."""
    return [item for item in stream(*arguments, **options) if isinstance(item, data.Batch)]


def labels(*arguments, world_size=1, **options):
    """Return the labels of each step over all ranks, sorted."""
    ranks = [batches(*arguments, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    return [sorted(torch.cat([batch.labels for batch in step]).tolist()) for step in zip(*ranks, strict=True)]


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    order = data.sample_order(3, 5, 1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert torch.equal(order, data.sample_order(3, 5, 1000))
    assert not torch.equal(order, data.sample_order(3, 6, 1000))
    assert not torch.equal(order, data.sample_order(4, 5, 1000))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_workers_sees_the_same_global_batches(world_size):
    assert labels(1003, 24, world_size=world_size) == labels(1003, 24)


def test_an_epoch_has_each_sample_once_and_a_smaller_last_batch():
    steps = labels(1003, 24)
    assert sorted(label for step in steps for label in step) == list(range(1003))
    assert [len(step) for step in steps] == [24] * 41 + [19]


def test_a_stream_that_starts_within_an_epoch_yields_its_rest():
    assert labels(1003, 24, start=10) == labels(1003, 24)[10:]


def positions(items):
    """Return the step of each batch, and "end of <epoch> at <steps done>" for the end of each epoch."""
    return [i.step if isinstance(i, data.Batch) else f"end of {i.epoch} at {i.done}" for i in items]


def test_a_stream_counts_steps_over_the_run_and_ends_each_epoch():
    whole = stream(10, 4, "epochs=2")
    assert positions(whole) == [0, 1, 2, "end of 1 at 3", 3, 4, 5, "end of 2 at 6"]
    assert [item.epoch for item in whole] == [1] * 4 + [2] * 4
    assert [item.done for item in whole] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_a_stream_from_the_end_of_an_epoch_begins_with_that_end():
    assert positions(stream(10, 4, "epochs=2", start=3)) == ["end of 1 at 3", 3, 4, 5, "end of 2 at 6"]
    assert positions(stream(10, 4, "epochs=2", start=6)) == ["end of 2 at 6"]


def test_a_stream_leaves_out_skipped_steps_and_keeps_epoch_ends():
    assert positions(stream(10, 4, "epochs=2", start=1, skipped=range(1, 4))) == [
        "end of 1 at 3",
        4,
        5,
        "end of 2 at 6",
    ]
    assert labels(10, 4, skipped=range(1)) == labels(10, 4)[1:]


def test_a_batch_names_the_rows_it_was_gathered_from():
    for batch in batches(50, 8, "data.flip=random"):
        assert torch.equal(batch.rows, batch.labels)


def test_weights_make_the_mean_of_ranks_the_mean_of_all_samples():
    ranks = [batches(7, 4, rank=rank, world_size=2) for rank in range(2)]
    for step in zip(*ranks, strict=True):
        values = [batch.labels.double() for batch in step]
        mean_of_ranks = sum(batch.weight * value.mean() for batch, value in zip(step, values, strict=True)) / 2
        assert mean_of_ranks == pytest.approx(float(torch.cat(values).mean()))


def test_a_rank_may_get_no_sample_of_the_last_batch():
    last = [batches(5, 4, rank=rank, world_size=2)[-1] for rank in range(2)]
    assert [(len(batch.labels), batch.weight) for batch in last] == [(1, 2.0), (0, 0.0)]


@pytest.mark.server
def test_normalise_equals_torchvision_bit_for_bit():
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = torch.arange(256, dtype=torch.uint8).repeat(4)[:784].view(1, 784)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    expected = theirs(pixels.view(28, 28, 1).numpy()).view(1, 784)
    assert torch.equal(data.normalise(pixels, resolve.load("seed").data), expected)


@pytest.mark.parametrize("how", ["data.flip=random", "data.flip=alternating", "data.shift_pixels=2"])
def test_augmentation_does_not_depend_on_the_number_of_workers(how):
    second_epoch = {"start": 7}
    whole = {
        int(label): image
        for batch in batches(50, 8, "epochs=2", how, **second_epoch)
        for label, image in zip(batch.labels, batch.images, strict=True)
    }
    for rank in range(2):
        for batch in batches(50, 8, "epochs=2", how, rank=rank, world_size=2, **second_epoch):
            for label, image in zip(batch.labels, batch.images, strict=True):
                assert torch.equal(image, whole[int(label)])


def test_alternating_flips_show_both_sides_in_two_epochs():
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


def test_the_real_data_set_has_the_documented_shape_and_statistics(data_folder):
    train, test = data.load(data_folder)
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((60_000, 784), (10_000, 784))
    assert train.images.dtype == torch.uint8
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    pixels = train.images.float() / 255
    defaults = config.Config().data
    assert (float(pixels.mean()), float(pixels.std())) == pytest.approx((defaults.mean, defaults.std), abs=1e-4)


def test_a_validation_split_replaces_the_test_set(data_folder):
    whole, test = data.load(data_folder)
    train, validation = data.load(data_folder, validation_samples=10_000)
    assert (len(train), len(validation)) == (50_000, 10_000)
    assert torch.equal(validation.images, whole.images[50_000:])
    assert not torch.equal(validation.labels, test.labels)


def test_load_refuses_a_file_that_is_not_idx(tmp_path):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(np.zeros(100, np.uint8).tobytes())
    with pytest.raises(DataError, match="train-images-idx3-ubyte is not an IDX file"):
        data.load(tmp_path)


def test_shares_of_a_test_set_are_disjoint_and_complete():
    parts = [data.share(samples(11), rank, 3) for rank in range(3)]
    assert sorted(torch.cat([part.labels for part, _ in parts]).tolist()) == list(range(11))
    for part, positions in parts:
        assert torch.equal(part.labels, positions)
