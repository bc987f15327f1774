"""Who may use an etcd and how it is reached: users, certificates, and the value that says so."""

from __future__ import annotations

import dataclasses
import ssl
import subprocess
from contextlib import closing

import pytest
from certificates import Authority
from etcds import LIMIT_S, Connecting, Etcds, OwnEtcd, free_port, wait_until_serving

from taskgraph.backends.coordinator import Put, Reachable, Resync, Unreachable
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.etcd_channel import EtcdChannel
from taskgraph.backends.etcd_program import find_etcd
from taskgraph.config import Config
from taskgraph.errors import CoordinatorUnreachable, UsageError
from taskgraph.testing.contracts import collect

pytest_plugins = ["etcd_fixtures"]


def test_it_is_made_of_the_options_with_the_contents_of_their_files(tmp_path):
    files = {}
    for option in ("etcd_ca", "etcd_cert", "etcd_key", "etcd_password_file"):
        files[option] = tmp_path / option
        files[option].write_text(f"-----BEGIN {option}\n")
    options = {option: str(path) for option, path in files.items()}
    config = Config(name="job", num_tasks=1, etcd=("a:1", "b:2"), etcd_user="me", etcd_timeout_s=3.0, **options)
    access = EtcdAccess.of_config(config)
    assert access.endpoints == ("a:1", "b:2")
    assert (access.user, access.password) == ("me", "-----BEGIN etcd_password_file")
    assert (access.ca, access.cert, access.key) == tuple(
        f"-----BEGIN {option}\n" for option in ("etcd_ca", "etcd_cert", "etcd_key")
    )
    assert access.timeout_s == 3.0


def test_a_file_that_is_no_certificate_is_named(tmp_path):
    (tmp_path / "ca.der").write_bytes(b"0\x82\xff")
    with pytest.raises(UsageError, match=r"etcd_ca='.*ca.der' holds no text in PEM form"):
        EtcdAccess.of_config(Config(name="job", num_tasks=1, etcd=("a:1",), etcd_ca=str(tmp_path / "ca.der")))


def test_it_goes_to_another_process_as_json():
    access = EtcdAccess(
        endpoints=("a:1", "b:2"), user="me", password="s3cret", ca="c", cert="d", key="k", timeout_s=2.5
    )
    assert EtcdAccess.decode(access.encode()) == access


def test_it_shows_no_secret():
    shown = repr(EtcdAccess(endpoints=("a:1",), user="me", password="s3cret", key="k3y"))
    assert "s3cret" not in shown
    assert "k3y" not in shown


class TestUsers:
    """An etcd that knows users: root, "job" with the permission it needs, and "guest" with none."""

    @pytest.fixture
    def secured(self, own_etcd: OwnEtcd) -> OwnEtcd:
        channel = EtcdChannel(own_etcd.access)
        rpc = channel.rpc
        for user in ("root", "job", "guest"):
            channel.call("Auth.UserAdd", rpc.AuthUserAddRequest(name=user, password=f"password of {user}"))
            channel.call("Auth.RoleAdd", rpc.AuthRoleAddRequest(name=user))
            channel.call("Auth.UserGrantRole", rpc.AuthUserGrantRoleRequest(user=user, role=user))
        request = rpc.AuthRoleGrantPermissionRequest(name="job")
        request.perm.permType = request.perm.READWRITE
        request.perm.key, request.perm.range_end = b"/taskgraph/", b"/taskgraph0"
        channel.call("Auth.RoleGrantPermission", request)
        channel.call("Auth.AuthEnable", rpc.AuthEnableRequest())
        channel.close()
        return own_etcd

    @staticmethod
    def access(secured: OwnEtcd, user: str | None, password: str | None = None) -> EtcdAccess:
        return dataclasses.replace(secured.access, user=user, password=password or f"password of {user}")

    def invalidate_tokens(self, secured: OwnEtcd) -> None:
        channel = EtcdChannel(self.access(secured, "root"))
        request = channel.rpc.AuthUserChangePasswordRequest(name="job", password="password of job")
        channel.call("Auth.UserChangePassword", request)
        channel.close()

    def test_one_with_the_permission_does_all_that_a_job_does(self, secured: OwnEtcd):
        with Connecting(self.access(secured, "job")) as connect:
            coordinator = connect()
            coordinator.claim("run")
            lease = coordinator.grant(60)
            assert coordinator.write({"hosts/n1": b""}, absent=["hosts/n1"], lease=lease)
            assert coordinator.renew(lease)
            assert [type(event) for event in coordinator.news(LIMIT_S)] == [Resync]
            coordinator.revoke(lease)
            coordinator.remove_run()
            assert coordinator.read() == {}

    def test_a_token_that_is_not_valid_any_more_is_renewed_by_calls_and_by_the_watch(self, secured: OwnEtcd):
        with Connecting(self.access(secured, "job")) as connect:
            coordinator = connect()
            coordinator.claim("run")
            coordinator.news(LIMIT_S)
            token = coordinator._channel._token
            self.invalidate_tokens(secured)
            secured.kill()
            collect(coordinator, lambda events: any(isinstance(event, Unreachable) for event in events), LIMIT_S)
            secured.start()
            events = collect(coordinator, lambda events: Reachable() in events, LIMIT_S)
            assert coordinator.write({"a": b"1"})
            events += collect(coordinator, lambda events: Put("a", b"1") in events, LIMIT_S)
            assert not any(isinstance(event, Unreachable | Resync) for event in events)
            assert coordinator._channel._token not in {None, token}

    def test_a_wrong_password_is_named(self, secured: OwnEtcd):
        with (
            Connecting(self.access(secured, "job", "guessed")) as connect,
            pytest.raises(UsageError, match=r"etcd_user='job'.*wrong user or password"),
        ):
            connect().claim("run")

    def test_no_user_is_told_which_option_is_missing(self, secured: OwnEtcd):
        with Connecting(secured.access) as connect, pytest.raises(UsageError, match="set etcd_user"):
            connect().claim("run")

    def test_a_user_without_the_permission_is_told_which_to_grant(self, secured: OwnEtcd):
        with Connecting(self.access(secured, "guest")) as connect:
            with pytest.raises(UsageError, match=r"etcd_user='guest' lacks permission.*readwrite.*/taskgraph/"):
                connect().claim("run")
            with pytest.raises(UsageError, match="lacks permission"):
                connect().news(LIMIT_S)

    def test_a_user_where_etcd_knows_none_is_a_mistake(self, own_etcd: OwnEtcd):
        with (
            Connecting(self.access(own_etcd, "job")) as connect,
            pytest.raises(UsageError, match="etcd_user='job' out"),
        ):
            connect().claim("run")


class TestCertificates:
    """An etcd that speaks TLS and asks its clients for certificates."""

    @pytest.fixture
    def authority(self, tmp_path) -> Authority:
        return Authority(tmp_path)

    @pytest.fixture
    def strict(self, authority: Authority, etcds: Etcds) -> EtcdAccess:
        server, client = authority.sign("server"), authority.sign("client")
        url = f"https://127.0.0.1:{free_port()}"
        etcds.start(
            "strict",
            [
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", "http://127.0.0.1:0"),
                *("--cert-file", server.cert, "--key-file", server.key),
                *("--client-cert-auth", "--trusted-ca-file", authority.cert),
            ],
        )
        context = ssl.create_default_context(cafile=authority.cert)
        context.load_cert_chain(client.cert, client.key)
        wait_until_serving(url, context)
        return EtcdAccess(
            endpoints=(url.removeprefix("https://"),),
            ca=authority.cert.read_text(),
            cert=client.cert.read_text(),
            key=client.key.read_text(),
            timeout_s=LIMIT_S,
        )

    def test_a_client_with_a_certificate_is_served(self, strict: EtcdAccess):
        with Connecting(strict) as connect:
            coordinator = connect()
            coordinator.claim("run")
            assert [type(event) for event in coordinator.news(LIMIT_S)] == [Resync]
            coordinator.write({"a": b"1"})
            assert collect(coordinator, bool, LIMIT_S) == [Put("a", b"1")]

    def test_a_client_without_one_is_not(self, strict: EtcdAccess):
        without = dataclasses.replace(strict, cert=None, key=None, timeout_s=1.0)
        with Connecting(without) as connect, pytest.raises(CoordinatorUnreachable, match="in etcd_cert and etcd_key"):
            connect().claim("run")

    def test_a_server_of_another_authority_is_not_trusted(self, strict: EtcdAccess, tmp_path):
        stranger = Authority(tmp_path, "stranger").cert.read_text()
        other = dataclasses.replace(strict, ca=stranger, timeout_s=1.0)
        with Connecting(other) as connect, pytest.raises(CoordinatorUnreachable, match=r"(?i)certificate"):
            connect().claim("run")

    def test_a_client_without_tls_is_told_of_the_option(self, strict: EtcdAccess):
        plain = EtcdAccess(endpoints=strict.endpoints, timeout_s=1.0)
        with Connecting(plain) as connect, pytest.raises(CoordinatorUnreachable, match="etcd_ca"):
            connect().claim("run")


def renew_often(coordinator: EtcdCoordinator, lease: int) -> None:
    """Renew a lease through a proxy until that fails: now and then an answer overtakes the end of its stream."""
    for _ in range(100):
        coordinator.renew(lease)


def test_a_grpc_proxy_of_etcd_is_named_as_what_stands_in_the_way(etcd, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    words = [f"--endpoints={etcd.endpoint}", f"--listen-addr={address}", f"--data-dir={tmp_path}"]
    quiet = subprocess.DEVNULL
    proxy = subprocess.Popen([find_etcd(), "grpc-proxy", "start", *words], stdout=quiet, stderr=quiet)
    try:
        access = EtcdAccess(endpoints=(address,), timeout_s=LIMIT_S)
        with closing(EtcdCoordinator(access, "job")) as patient:
            patient.claim("run")
            lease = patient.grant(30.0)
        with closing(EtcdCoordinator(access.within(1.0), "job", "run")) as coordinator:
            with pytest.raises(CoordinatorUnreachable, match="grpc-proxy"):
                renew_often(coordinator, lease)
    finally:
        proxy.kill()
        proxy.wait()
