"""Errors in the words of the stores: as S3 and Azure document them, since no server here lets a token expire."""

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from trainer.errors import OutageError, StorageError
from trainer.storage.store_errors import sentences


def said(error, uri="s3://bucket/r/x"):
    with pytest.raises(StorageError) as caught, sentences(uri, "written"):
        raise error
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        GenericError("Client error with status 400 Bad Request: <Code>ExpiredToken</Code>"),
        PermissionDeniedError("403: Signature not valid in the specified time frame"),
    ],
)
def test_expired_credentials_end_a_run_at_once_and_say_that_it_continues(error):
    found = said(error)
    assert not isinstance(found, OutageError)
    assert "storage: s3://bucket/r/x cannot be written: the credentials have expired; renew them" in str(found)


def test_a_clock_that_is_wrong_is_told_from_wrong_credentials():
    found = said(PermissionDeniedError("403 Forbidden: <Code>RequestTimeTooSkewed</Code>"))
    assert not isinstance(found, OutageError)
    assert "set this machine's clock" in str(found)


def test_what_nobody_knows_may_pass():
    assert isinstance(said(GenericError("503 Slow Down")), OutageError)
