"""What the trainer asks of a storage, held by every kind of it: a folder, and servers of S3, Google and Azure."""

import os
import threading

import pytest
from support import proxy
from support.object_store import BUCKET, STORES

from trainer.errors import ConflictError, OutageError, StorageError
from trainer.storage import bucket as buckets
from trainer.storage import checkpoints, layout, store
from trainer.storage.checkpoints import Checkpoint
from trainer.storage.lease import Lease

pytestmark = pytest.mark.server

remote = pytest.mark.parametrize("server", STORES, indirect=True)


@pytest.fixture(scope="module", params=["folder", *STORES])
def server(request, tmp_path_factory):
    """A folder, or a server's bucket to which the environment leads."""
    if request.param == "folder":
        yield str(tmp_path_factory.mktemp("folder"))
        return
    scheme, start = STORES[request.param]
    with start() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        buckets.client.cache_clear()
        yield f"{scheme}://{BUCKET}"
        buckets.client.cache_clear()


@pytest.fixture
def place(server, request):
    """One of the test's own there, whose name URIs have to spell otherwise."""
    return store.join(server, "team ü+%&", request.function.__name__)


@pytest.fixture
def atomic(request):
    """Leave out the one server that checks and writes without a lock: two of many may succeed on a busy machine."""
    if request.node.callspec.params["server"] == "moto":
        pytest.skip("moto has no lock around a conditional write")


def at_once(times, act):
    """What `act(i)` returned or raised in each of many threads that begin together."""
    results, together = [None] * times, threading.Barrier(times)

    def run(i):
        together.wait(30)
        try:
            results[i] = act(i)
        except ConflictError as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(times)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    return results


def test_the_check_before_a_run_passes_and_leaves_nothing(place):
    store.check(place)
    assert store.files(place) == store.folders(place) == []


def test_what_was_written_is_read_and_what_was_not_is_none(place):
    for content in (b"one", b"", bytes(range(256)) * 5000):
        store.write(store.join(place, "r1", "a b.json"), content)
        assert store.read(store.join(place, "r1", "a b.json")) == content
    assert store.read(store.join(place, "r1", "nothing")) is None
    assert store.read(store.join(place, "r2", "a b.json")) is None


def test_what_is_there_is_listed_and_nothing_else(place):
    assert (store.files(place), store.folders(place)) == ([], [])
    for name in ("r1/x", "r1/deep/y z", "r10/x", "r2/.hidden"):
        store.write(store.join(place, *name.split("/")), b"x")
    assert store.files(place) == ["r1/deep/y z", "r1/x", "r10/x", "r2/.hidden"]
    assert store.files(store.join(place, "r1")) == ["deep/y z", "x"]
    assert store.folders(place) == ["r1", "r10", "r2"]


def test_a_listing_of_more_than_one_page_is_whole(place):
    if place.startswith("gs://"):
        pytest.skip("gcp-storage-emulator lists all in one page")
    names = [f"{i:04}" for i in range(1005)]  # a page of S3 and Google has 1,000
    for first in range(0, len(names), 15):
        at_once(len(names[first : first + 15]), lambda i: store.write(store.join(place, names[first + i]), b""))  # noqa: B023
    assert store.files(place) == names


def test_what_was_deleted_is_gone_and_may_be_deleted_again(place):
    for name in ("a", "b"):
        store.write(store.join(place, name), b"x")
    store.delete(store.join(place, "a"))
    store.delete(store.join(place, "a"))
    assert store.files(place) == ["b"]
    assert store.read(store.join(place, "a")) is None


def test_what_exists_is_not_created_again_and_stays_as_it_was(place):
    uri = store.join(place, "claim")
    assert store.create(uri, b"first")
    assert not store.create(uri, b"second")
    assert store.read(uri) == b"first"
    store.delete(uri)
    assert store.create(uri, b"third")


def test_of_many_that_create_at_once_one_does_and_its_bytes_are_there(place, atomic):
    for round_ in range(5):
        uri = store.join(place, f"claim {round_}")
        made = at_once(8, lambda i: store.create(uri, b"from %d" % i))  # noqa: B023
        assert made.count(True) == 1, made
        assert store.read(uri) == b"from %d" % made.index(True)


def test_of_many_that_write_at_once_the_bytes_of_one_are_there_whole(place):
    uri = store.join(place, "object")
    contents = [bytes([i]) * 100_000 for i in range(8)]
    at_once(8, lambda i: store.write(uri, contents[i]))
    assert store.read(uri) in contents
    assert store.files(place) == ["object"]


def test_checking_it_leaves_nothing_behind(place):
    store.check(place)
    assert store.files(place) == []


def test_of_many_that_claim_a_run_at_once_one_gets_it(place, atomic):
    got = at_once(6, lambda i: Lease(place, lambda: None))
    won = [each for each in got if isinstance(each, Lease)]
    assert len(won) == 1
    assert all(isinstance(each, ConflictError) for each in got if each not in won)
    with won[0]:
        assert won[0].fence == 1
    with Lease(place, lambda: None) as next_one:
        assert next_one.fence == 2


def test_a_checkpoint_is_committed_found_and_removed(place):
    files = {"model.safetensors": b"m" * 100_000, "optimizer.safetensors": b"", "rng.safetensors": b"r"}
    for step in (1, 2):
        checkpoints.commit(place, Checkpoint(step, 1), files, {})
    found, content, _ = checkpoints.newest_valid(place, lambda *_: None)
    assert (found.step, content) == (2, files)
    checkpoints.prune(place, keep=1)
    assert {name.partition("/")[0] for name in store.files(store.join(place, layout.CHECKPOINTS))} == {found.name}


@remote
def test_a_bucket_that_is_not_there_is_a_refusal_that_says_so(server):
    nowhere = server.partition("://")[0] + "://nowhere"
    for ask in (store.check, store.files, store.folders):
        with pytest.raises(StorageError, match="the bucket does not exist") as error:
            ask(nowhere)
        assert not isinstance(error.value, OutageError)  # asking again for ten minutes would not help


@remote
def test_a_server_that_is_gone_is_an_outage_and_its_address_is_named(server, monkeypatch):
    monkeypatch.setenv(buckets.ENDPOINTS[server.partition("://")[0]][0], "http://127.0.0.1:9/account")
    monkeypatch.setattr(store, "CHECK_DEADLINE_S", 1)
    buckets.client.cache_clear()
    with pytest.raises(OutageError, match=r"the store at http://127\.0\.0\.1:9/account is unreachable"):
        store.check(server)
    buckets.client.cache_clear()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_an_identity_that_is_refused_is_no_outage_whatever_is_asked(server, monkeypatch):
    with proxy.before(os.environ["AWS_ENDPOINT_URL"]) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        buckets.client.cache_clear()
        store.write(f"{server}/x", b"x")
        between.fault = proxy.FORBIDDEN
        asked = [store.check, store.read, store.files, store.folders, store.delete]
        for ask in [*asked, lambda uri: store.write(uri, b""), lambda uri: store.create(uri, b"")]:
            with pytest.raises(StorageError, match="access denied") as error:
                ask(f"{server}/x")
            assert not isinstance(error.value, OutageError)
        assert between.failed == 7  # it is not asked a second time
    buckets.client.cache_clear()


@pytest.mark.parametrize("server", ["moto", "versitygw"], indirect=True)
def test_a_create_whose_answer_was_lost_is_recognised_as_ours(server, place, monkeypatch):
    with proxy.before(os.environ["AWS_ENDPOINT_URL"]) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        buckets.client.cache_clear()
        between.fault = proxy.Fault(status=503, share=0.5)
        for i in range(12):
            uri = store.join(place, str(i))
            assert store.create(uri, b"%d" % i)
            assert not store.create(uri, b"another")
            assert store.read(uri) == b"%d" % i
        assert between.failed > 5
    buckets.client.cache_clear()
