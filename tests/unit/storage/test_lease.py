import json
import multiprocessing
import os
import socket
import threading
import time

import pytest

from trainer.errors import ConflictError, StorageError
from trainer.storage import lease, store
from trainer.storage.lease import Lease


def ignore():
    raise AssertionError("it was lost")


@pytest.fixture
def run(tmp_path):
    return str(tmp_path / "r")


def claimed_by(run, number=1, host="elsewhere", pid=1, age=0.0):
    """A claim of another process, with its last sign of life `age` seconds ago."""
    store.write(lease._object(run, number, "json"), json.dumps({"host": host, "pid": pid, "created": 1.0}).encode())
    store.write(lease._object(run, number, "alive"), json.dumps({"time": time.time() - age}).encode())


def test_each_claim_has_a_higher_number_than_the_one_before(run):
    for number in (1, 2, 3):
        held = Lease(run, ignore)
        assert held.fence == number
        assert lease.is_mine(run, number)
        held.__exit__()


def test_a_run_that_is_trained_elsewhere_is_refused_with_the_owner_named(run):
    claimed_by(run, pid=4711, age=lease.EXPIRES_AFTER_S - 5)
    with pytest.raises(ConflictError, match="process 4711 on elsewhere is training"):
        Lease(run, ignore)


def test_a_claim_that_is_being_written_is_no_dead_one(run, monkeypatch):
    """Where there are no hard links, the name of a claim appears before its content."""
    store.write(lease._object(run, 1, "json"), b"")

    def sleep(_):
        claimed_by(run, pid=4711)

    monkeypatch.setattr(lease.time, "sleep", sleep)
    with pytest.raises(ConflictError, match="process 4711 on elsewhere is training"):
        Lease(run, ignore)


def test_a_claim_without_a_sign_of_life_is_taken_over(run):
    claimed_by(run, age=lease.EXPIRES_AFTER_S + 1)
    held = Lease(run, ignore)
    assert held.fence == 2
    assert not lease.is_mine(run, 1)
    held.__exit__()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("alive", b'{"time": 11795757641.5}'),  # a digit more: in three hundred years
        ("alive", b'{"time": "1"}'),
        ("alive", b"[]"),
        ("alive", b'{"time": 1'),  # cut by a full disk
        ("json", b'{"host": "else'),
        ("json", b'{"hosu": "elsewhere", "time": 1.0}'),
    ],
)
def test_a_damaged_claim_is_taken_over_when_it_would_have_been_anyway(run, kind, content):
    claimed_by(run, age=lease.EXPIRES_AFTER_S + 1)
    store.write(lease._object(run, 1, kind), content)
    held = Lease(run, ignore)
    assert held.fence == 2
    held.__exit__()


def test_of_a_damaged_claim_of_this_machine_the_signs_of_life_count(run):
    claimed_by(run)
    store.write(lease._object(run, 1, "json"), json.dumps({"host": socket.gethostname(), "qid": 1}).encode())
    with pytest.raises(ConflictError):
        Lease(run, ignore)


def test_a_dead_process_of_this_machine_is_taken_over_at_once(run):
    def claim_and_die():
        Lease(run, ignore)
        os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=claim_and_die)
    process.start()
    process.join(30)
    assert lease.newest_claim(run) == 1
    held = Lease(run, ignore)
    assert held.fence == 2
    held.__exit__()


def test_a_new_claim_is_respected_before_its_first_renewal(run):
    me = {"host": "elsewhere", "pid": 4711, "created": 1.0, "time": time.time()}
    store.write(lease._object(run, 1, "json"), json.dumps(me).encode())
    with pytest.raises(ConflictError, match="process 4711 on elsewhere is training"):
        Lease(run, ignore)


def test_of_many_at_once_one_gets_the_run(run):
    results = []
    together = threading.Barrier(20)

    def try_it():
        together.wait(10)
        try:
            results.append(Lease(run, ignore))
        except ConflictError as error:
            results.append(error)

    threads = [threading.Thread(target=try_it) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    won = [each for each in results if isinstance(each, Lease)]
    assert (len(won), len(results)) == (1, 20)
    won[0].__exit__()


def test_an_owner_that_was_replaced_is_told_by_whom(run, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.02)
    told = threading.Event()
    held = Lease(run, told.set)
    claimed_by(run, number=2, pid=4712)
    assert told.wait(10)
    assert held.taken_by == "process 4712 on elsewhere"
    held.__exit__()


def test_an_outage_of_the_store_does_not_end_the_lease(run, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.02)
    held = Lease(run, ignore)
    writes = []
    real = store.write

    def failing(uri, content):
        writes.append(uri)
        if len(writes) < 4:
            raise StorageError("away")
        real(uri, content)

    monkeypatch.setattr(store, "write", failing)
    before = lease._load(run, 1, "alive")["time"]
    until = time.monotonic() + 10
    while lease._load(run, 1, "alive")["time"] == before:
        assert time.monotonic() < until
    assert len(writes) >= 4
    held.__exit__()


def test_an_owner_that_asks_learns_who_has_replaced_it(run):
    held = Lease(run, ignore)
    assert held.poll() is None
    claimed_by(run, number=2, pid=4712)
    assert held.poll() == held.taken_by == "process 4712 on elsewhere"
    held.__exit__()
    assert "released" not in lease._claims(run)[1]
