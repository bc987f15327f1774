"""How an etcd is reached: a value that a rank can hand to another process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from taskgraph.config import Config
from taskgraph.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdAccess:
    """Endpoints and credentials of one etcd.

    Its JSON holds the password and the key in clear: hand it over by a pipe or a file of mode 0600, never on a command
    line.
    """

    endpoints: tuple[str, ...]
    """``host:port``, at least one."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = field(default=None, repr=False)
    """Certificate authority as PEM text, not a path: the process it goes to may be on another machine."""
    cert: str | None = field(default=None, repr=False)
    """Client certificate, PEM text."""
    key: str | None = field(default=None, repr=False)
    """The client certificate's key, PEM text."""
    timeout_s: float = 10.0
    """How long one operation may take, all retries and endpoints together, in seconds."""

    @classmethod
    def of_config(cls, config: Config) -> EtcdAccess:
        """Read what the options name, files included.

        Raises
        ------
        UsageError
            A file does not hold what it should.
        """
        return cls(
            endpoints=config.etcd,
            user=config.etcd_user,
            password=config.password(),
            ca=_pem("etcd_ca", config.etcd_ca),
            cert=_pem("etcd_cert", config.etcd_cert),
            key=_pem("etcd_key", config.etcd_key),
            timeout_s=config.etcd_timeout_s,
        )

    def within(self, timeout_s: float) -> EtcdAccess:
        """Return the same access with another time limit for each operation."""
        return replace(self, timeout_s=timeout_s)

    def encode(self) -> str:
        """Return it as JSON, secrets in clear."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> EtcdAccess:
        """Read what `encode` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "endpoints": tuple(fields["endpoints"])})


def _pem(option: str, path: str | None) -> str | None:
    if path is None:
        return None
    data = Path(path).read_bytes()
    if b"-----BEGIN " not in data:
        raise UsageError(f"{option}={path!r} holds no text in PEM form, which begins with -----BEGIN")
    return data.decode()
