"""Redis for tests: a server, and a master with a replica watched by Sentinel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import redis
from patience import wait_until
from redis.sentinel import MasterNotFoundError, Sentinel

from servers.certificates import Certificates
from servers.process import HOST, Server, find_program, free_port

if TYPE_CHECKING:
    from typing_extensions import Self


class RedisServer(Server):
    """A redis-server; what it stores outlives `stop`, `restart` and `kill`.

    tls: speaks TLS only; `certificates` has the files, `url` names the authority.
    config: lines of redis.conf, `_` for `-`: `RedisServer(maxmemory="5mb", requirepass="x")`;
    `RedisServer(replicaof=f"127.0.0.1 {master.port}")`.
    """

    name = "redis-server"

    def __init__(self, *, tls: bool = False, **config: Any) -> None:
        self.program = find_program("redis-server")
        super().__init__()
        self.port = free_port()
        self.socket = str(self.folder / "redis.sock")
        self.password: str | None = config.get("requirepass")
        self.certificates = Certificates(self.folder / "tls") if tls else None
        self.config = {key.replace("_", "-"): value for key, value in config.items()}

    @property
    def query(self) -> str:
        """What the URL needs beyond the address: nothing, or where the authority is."""
        if self.certificates is None:
            return ""
        return f"?ssl_cert_reqs=required&ssl_ca_certs={self.certificates.authority}"

    def database(self, number: int) -> str:
        """The URL of one of its 10,000 databases."""
        scheme = "rediss" if self.certificates else "redis"
        login = f":{self.password}@" if self.password else ""
        return f"{scheme}://{login}{HOST}:{self.port}/{number}{self.query}"

    @property
    def url(self) -> str:
        """redis://[:password@]127.0.0.1:port/0, or rediss:// with its authority."""
        return self.database(0)

    @property
    def socket_url(self) -> str:
        """The same server by its unix socket, as result backends spell it."""
        login = f":{self.password}@" if self.password else ""
        return f"socket://{login}{self.socket}"

    def client(self, database: int = 0, **options: Any) -> redis.Redis:
        """A redis-py client of its own; close it."""
        return redis.Redis.from_url(self.database(database), **options)

    def clients(self) -> list[dict[str, str]]:
        """Who is connected (CLIENT LIST), we ourselves not counted."""
        with self.client() as client:
            me = client.client_id()
            return [each for each in client.client_list() if int(each["id"]) != me]

    def _command(self) -> Sequence[str]:
        settings: dict[str, Any] = {
            "bind": HOST,
            "port": self.port,
            "unixsocket": self.socket,
            "dir": str(self.folder),
            "databases": 10_000,
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "no",
            **self.config,
        }
        if self.certificates:
            settings |= {
                "port": 0,
                "tls-port": self.port,
                "tls-cert-file": self.certificates.server,
                "tls-key-file": self.certificates.server_key,
                "tls-ca-cert-file": self.certificates.authority,
                "tls-auth-clients": self.config.get("tls-auth-clients", "no"),
            }
        file = self.folder / "redis.conf"
        file.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        return [self.program, str(file)]

    def _answers(self) -> bool:
        options: dict[str, Any] = {"unix_socket_path": self.socket, "password": self.password}
        try:
            with redis.Redis(**options) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:  # not yet listening, or still loading
            return False


class _SentinelProcess(Server):
    name = "redis-sentinel"

    def __init__(self, service: str, master: RedisServer, **config: Any) -> None:
        self.program = find_program("redis-server")
        super().__init__()
        self.port = free_port()
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {self.folder}",
            f"sentinel monitor {service} {HOST} {master.port} 1",
            f"sentinel down-after-milliseconds {service} 500",
            f"sentinel failover-timeout {service} 3000",
            *(f"{key.replace('_', '-')} {value}" for key, value in config.items()),
        ]
        if master.password:
            lines.append(f"sentinel auth-pass {service} {master.password}")
        self.file = self.folder / "sentinel.conf"
        self.file.write_text("\n".join(lines) + "\n")

    def _command(self) -> Sequence[str]:
        return [self.program, str(self.file), "--sentinel"]

    def _answers(self) -> bool:
        try:
            with redis.Redis(host=HOST, port=self.port) as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False
        return True


class RedisSentinel:
    """A master, its replica and one Sentinel that watches them.

    `url` is sentinel://127.0.0.1:port/0; the transport options need {"master_name": service}.
    """

    service = "taskq-master"

    def __init__(self, **config: Any) -> None:
        config = {"repl_diskless_sync_delay": 0, **config}
        self.master = RedisServer(**config)
        master_auth = {"masterauth": self.master.password} if self.master.password else {}
        self.replica = RedisServer(
            replicaof=f"{HOST} {self.master.port}", **{**config, **master_auth}
        )
        self.sentinel = _SentinelProcess(self.service, self.master)

    @property
    def url(self) -> str:
        """Where Sentinel is asked; a password is that of the master."""
        login = f":{self.master.password}@" if self.master.password else ""
        return f"sentinel://{login}{HOST}:{self.sentinel.port}/0"

    def current_master(self) -> tuple[str, int] | None:
        """(host, port) of the master, if Sentinel knows one."""
        sentinel = Sentinel([(HOST, self.sentinel.port)])
        try:
            host, port = sentinel.discover_master(self.service)
            return str(host), int(port)
        except MasterNotFoundError:
            return None
        finally:
            for client in sentinel.sentinels:
                client.close()

    def failover(self) -> None:
        """Kill the master, and wait until the replica is in its place."""
        self.master.kill()
        wait_until(lambda: self.current_master() == (HOST, self.replica.port), "failover")

    def start(self) -> Self:
        """Start all three and wait until Sentinel knows the replica."""
        for server in (self.master, self.replica, self.sentinel):
            server.start()

        def replica_known() -> bool:
            with redis.Redis(host=HOST, port=self.sentinel.port) as client:
                state = client.sentinel_master(self.service)
                return int(state["num-slaves"]) == 1

        def replica_synced() -> bool:
            with self.replica.client() as client:
                return bool(client.info("replication")["master_link_status"] == "up")

        wait_until(replica_synced, "the replica follows the master")
        wait_until(replica_known, "Sentinel knows the replica")
        return self

    def remove(self) -> None:
        """End all three."""
        for server in (self.sentinel, self.replica, self.master):
            server.remove()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.remove()
