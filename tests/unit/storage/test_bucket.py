import pytest
from support import proxy
from support.object_store import s3_server

from trainer.errors import StorageError
from trainer.storage import bucket, store

UNSET = (
    *(name for names in bucket.ENDPOINTS.values() for name in names),
    *bucket.S3_IDENTITIES,
    "AWS_PROFILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
)


@pytest.fixture(scope="module")
def server():
    with s3_server() as environment:
        yield environment


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """An environment without anything of a store, and a home folder without profiles."""
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    bucket.client.cache_clear()
    yield monkeypatch
    bucket.client.cache_clear()


def given(environment, variables):
    for name, value in variables.items():
        environment.setenv(name, value)


@pytest.mark.parametrize("variable", bucket.ENDPOINTS["s3"])
def test_each_variable_that_names_an_s3_server_leads_to_it(environment, server, variable):
    endpoint = {variable: server["AWS_ENDPOINT_URL"]}
    given(environment, {**{name: value for name, value in server.items() if name != "AWS_ENDPOINT_URL"}, **endpoint})
    store.check("s3://runs/p")


def test_the_variable_for_s3_alone_wins_over_the_general_one(environment, server):
    given(
        environment,
        {**server, "AWS_ENDPOINT_URL_S3": server["AWS_ENDPOINT_URL"], "AWS_ENDPOINT_URL": "http://x.invalid"},
    )
    store.check("s3://runs/p")


def test_a_variable_that_is_set_to_nothing_is_not_set(environment, server):
    given(environment, {**server, "AWS_ENDPOINT_URL_S3": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": " "})
    store.check("s3://runs/p")


@pytest.mark.parametrize("value", ["localhost:9000", "minio", "ftp://x", "http://", "/path"])
@pytest.mark.parametrize("uri", ["s3://runs", "gs://runs", "az://runs"])
def test_an_endpoint_that_is_no_url_is_refused_by_its_name(environment, uri, value):
    name = bucket.ENDPOINTS[uri[:2]][0]
    given(environment, {name: value, "AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "aGk="})
    with pytest.raises(StorageError, match=f"{name}: {value} is not the URL of a server; write it as https://"):
        store.read(f"{uri}/x")


@pytest.mark.parametrize(
    ("uri", "variables", "words"),
    [
        ("s3://runs", {"AWS_UNSIGNED_PAYLOAD": "junk"}, 'parse "junk" as boolean; correct AWS_UNSIGNED_PAYLOAD'),
        ("s3://runs", {"AWS_COPY_IF_NOT_EXISTS": "q"}, "correct AWS_COPY_IF_NOT_EXISTS"),
        ("az://runs", {}, "Account must be specified; correct AZURE_"),
        (
            "az://runs",
            {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"},
            "set AZURE_STORAGE_ACCOUNT_NAME",
        ),
        ("az://runs", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "!"}, "Invalid Access Key"),
        (
            "gs://runs",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/none"},
            "/none: No such file.*; correct GOOGLE_APPLICATION_CRED",
        ),
    ],
)
def test_a_value_that_makes_no_client_is_a_sentence(environment, uri, variables, words):
    given(environment, variables)
    with pytest.raises(StorageError, match=words):
        store.read(f"{uri}/x")


def test_conditional_writes_cannot_be_switched_off(environment, server):
    given(environment, {**server, "AWS_CONDITIONAL_PUT": "disabled"})
    store.check("s3://runs/p")


def test_the_names_of_azures_own_tools_are_understood(environment):
    given(environment, {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "aGk="})
    assert bucket.client("az://runs", 1).config["account_name"] == "a"


def profile(tmp_path, server):
    keys = {"aws_access_key_id": server["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": server["AWS_SECRET_ACCESS_KEY"]}
    file = tmp_path / "credentials"
    file.write_text("\n".join(["[work]", *(f"{name} = {value}" for name, value in keys.items())]))
    return {
        "AWS_PROFILE": "work",
        "AWS_SHARED_CREDENTIALS_FILE": str(file),
        "AWS_ENDPOINT_URL": server["AWS_ENDPOINT_URL"],
        "AWS_REGION": "us-east-1",
    }


def test_a_profile_is_read_by_boto3(environment, server, tmp_path):
    given(environment, profile(tmp_path, server))
    store.check("s3://runs/p")


def test_a_profile_that_is_not_there_is_named(environment, server, tmp_path):
    given(environment, {**profile(tmp_path, server), "AWS_PROFILE": "play"})
    with pytest.raises(StorageError, match=r"AWS_PROFILE: .*play.*aws sso login"):
        store.check("s3://runs/p")


def test_without_boto3_a_profile_is_refused_with_a_command_to_export_it(environment, server, tmp_path):
    given(environment, profile(tmp_path, server))
    environment.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(StorageError, match=r"AWS_PROFILE: work cannot be read.*export-credentials --profile work"):
        store.check("s3://runs/p")


def test_a_proxy_counts_unless_the_host_is_excepted(environment):
    given(environment, {"AWS_ENDPOINT_URL": "http://store.example:9000", "HTTP_PROXY": "http://p:1", "NO_PROXY": ""})
    assert bucket.proxy_of("s3://runs") == ("HTTP_PROXY", "http://p:1")
    environment.setenv("NO_PROXY", "store.example")
    environment.setenv("no_proxy", "store.example")
    assert bucket.proxy_of("s3://runs") is None


@pytest.mark.server
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (proxy.UNCONDITIONAL, "s3://runs/p creates one object twice: it ignores conditional writes; use a store"),
        (proxy.NOT_IMPLEMENTED, r"the store has no conditional writes \(501.*\); use a store"),
        (proxy.Fault(status=400, refuses="If-None-Match"), r"the store has no conditional writes \(400"),
        (
            proxy.Fault(status=403, of=lambda method, path: "list-type" in path),
            "cannot be listed: access denied.*list obj",
        ),
        (
            proxy.Fault(status=403, of=lambda method, path: method in ("DELETE", "POST")),
            "cannot be removed: access denied",
        ),
        (
            proxy.Fault(status=403, of=lambda method, path: method == "GET" and "replaced" in path),
            "cannot be read: acc",
        ),
    ],
)
def test_a_store_that_lacks_something_is_refused_before_the_run(environment, server, fault, words):
    with proxy.before(server["AWS_ENDPOINT_URL"]) as between:
        between.fault = fault
        given(environment, {**server, "AWS_ENDPOINT_URL": between.endpoint})
        environment.setattr(store, "CHECK_DEADLINE_S", 2)
        with pytest.raises(StorageError, match=words):
            store.check("s3://runs/p")
