"""RabbitMQ for tests: a virtual host on a server that is there, or a node of our own."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import amqp
from patience import wait_until

from servers.process import HOST, Server, ServerMissing, find_program, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

#: Where Debian keeps the scripts that do not change the user first.
_SCRIPTS = "/usr/lib/rabbitmq/bin"

#: What the commands of rabbitmqctl do in the node, as Erlang.
_IN_THE_NODE = {
    "add_vhost": "rabbit_vhost:add({name}, {us})",
    "delete_vhost": "rabbit_vhost:delete({name}, {us})",
    "set_permissions": (
        "rabbit_auth_backend_internal:set_permissions"
        '(<<"guest">>, {name}, <<".*">>, <<".*">>, <<".*">>, {us})'
    ),
    "list_queues": (
        "[[element(4, proplists:get_value(name, Q)) | "
        'io_lib:format("\\t~p\\t~p~n", [proplists:get_value(K, Q) || K <- [messages, consumers]])] '
        "|| Q <- rabbit_amqqueue:info_all({name}, [name, messages, consumers])]"
    ),
}


def _script(name: str) -> str:
    """The script itself: the one on the PATH would change the user and drop the environment."""
    direct = Path(_SCRIPTS, name)
    return str(direct) if direct.exists() else find_program(name, "rabbitmq-server")


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=5):
            pass
        with amqp.Connection(f"{HOST}:{port}", connect_timeout=30):
            return True
    except (OSError, amqp.AMQPError):
        return False


class Broker:
    """Something that takes AMQP connections at `port` and obeys `ctl`."""

    port: int

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl ARGUMENTS` on it; gives what it prints."""
        raise NotImplementedError

    def _erlang(self) -> tuple[str, dict[str, str]]:
        """The node's name, and an environment in which it can be spoken to."""
        raise NotImplementedError

    def do(self, command: str, vhost: str) -> str | None:
        """Do a command of rabbitmqctl in the node itself: gives the text it makes, if any.

        None where that does not work. rabbitmqctl starts an Erlang of its own, which takes seconds.
        """
        code = _IN_THE_NODE[command].format(name=f'<<"{vhost}">>', us='<<"tests">>')
        node, environment = self._erlang()
        text = f"[$=, case {code} of ok -> []; Text when is_list(Text) -> Text end]"
        try:
            done = subprocess.run(
                [find_program("erl_call"), "-r", "-sname", node, "-e"],
                input=f"binary_to_list(base64:encode(iolist_to_binary({text}))).\n",
                env=environment, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
        except (ServerMissing, OSError, subprocess.TimeoutExpired):
            return None
        answer = re.match(r'\{ok, "(.*)"\}', done.stdout)
        return base64.b64decode(answer[1]).decode()[1:] if answer else None

    @property
    def url(self) -> str:
        """amqp://guest:guest@127.0.0.1:port// (the virtual host "/")."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"


class SharedBroker(Broker):
    """The server of this machine, on the standard port: use a `Vhost` of it, stop nothing."""

    port = 5672

    def ctl(self, *arguments: str) -> str:
        return _run([find_program("rabbitmqctl"), "--quiet", *arguments])

    def _erlang(self) -> tuple[str, dict[str, str]]:
        node = os.environ.get(
            "RABBITMQ_NODENAME", "rabbit@" + socket.gethostname().partition(".")[0]
        )
        return node, {**os.environ, "HOME": "/var/lib/rabbitmq"}


@lru_cache(maxsize=1)
def shared_rabbitmq() -> Broker:
    """The server of this machine; where none runs, a node started for this test run."""
    shared = SharedBroker()
    with contextlib.suppress(ServerMissing, RuntimeError, OSError):
        if _answers(shared.port):
            shared.ctl("list_vhosts")
            return shared
    return RabbitMQ().start()


class Vhost:
    """A virtual host of our own, removed at the end of the block: `url`, `ctl`."""

    def __init__(self, broker: Broker | None = None) -> None:
        self.broker = broker or shared_rabbitmq()
        self.name = f"taskq-test-{uuid.uuid4().hex[:12]}"
        self.port = self.broker.port
        self.url = f"amqp://guest:guest@{HOST}:{self.port}/{self.name}"

    def ctl(self, command: str, *arguments: str) -> str:
        """Run `rabbitmqctl COMMAND -p <this one> ARGUMENTS`."""
        return self.broker.ctl(command, "-p", self.name, *arguments)

    def queues(self, *columns: str) -> list[list[str]]:
        """Its queues: name, messages and consumers, or the columns named."""
        out = None if columns else self.broker.do("list_queues", self.name)
        if out is None:
            lines = self.ctl("list_queues", *(columns or ("name", "messages", "consumers")))
            out = lines.partition("\n")[2]
        return [line.split("\t") for line in out.splitlines()]

    def close_connections(self, reason: str = "test") -> None:
        """Have the server close every connection to it (CONNECTION_FORCED)."""
        self.ctl("close_all_connections", reason)

    def create(self) -> Self:
        """Make it, with all rights for guest."""
        if self.broker.do("add_vhost", self.name) is None:
            self.broker.ctl("add_vhost", self.name)
        if self.broker.do("set_permissions", self.name) is None:
            self.ctl("set_permissions", "guest", ".*", ".*", ".*")
        return self

    def remove(self) -> None:
        """Remove it and all that is in it."""
        if self.broker.do("delete_vhost", self.name) is None:
            self.broker.ctl("delete_vhost", self.name)

    def __enter__(self) -> Self:
        return self.create()

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


class RabbitMQ(Server, Broker):
    """A node of our own, with its own name, ports, cookie, port mapper (epmd) and data.

    `RabbitMQ("rabbitmq_management")` enables plugins. Durable queues outlive `stop` and `restart`;
    what was confirmed or persistent also outlives `kill`. A start takes some seconds.
    """

    name = "rabbitmq-server"

    def __init__(self, *plugins: str, **config: object) -> None:
        self.program = _script("rabbitmq-server")
        super().__init__()
        self.port, self.node_port, self.mapper_port = free_port(), free_port(), free_port()
        self.node = f"taskq-{uuid.uuid4().hex[:12]}@localhost"
        self._mapper: subprocess.Popen[bytes] | None = None
        (self.folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        settings = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "disk_free_limit.absolute": "1MB",
            "vm_memory_high_watermark.relative": "0.8",
            "loopback_users.guest": "true",
            **config,
        }
        lines = [f"{key} = {value}" for key, value in settings.items()]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "env.conf").write_text("")

    def ctl(self, *arguments: str) -> str:
        return _run(
            [_script("rabbitmqctl"), "--quiet", "-n", self.node, *arguments], self._environment()
        )

    def _erlang(self) -> tuple[str, dict[str, str]]:
        return self.node, self._environment()

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        ours = {
            "HOME": folder,  # the cookie
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self.node_port),
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/env.conf",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_ALLOW_INPUT": "true",  # no shell around it: signals reach the node
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput -kernel inet_dist_use_interface {127,0,0,1} +sbwt none +S 2:2"
            ),
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP": f"{folder}/erl_crash.dump",
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RABBITMQ_")}
        return {**kept, **ours}

    def _command(self) -> Sequence[str]:
        return [self.program]

    def _answers(self) -> bool:
        return _answers(self.port)

    def start(self, wait: bool = True) -> Self:
        if self._mapper is None:
            # Ours to end: the node would start one that outlives it.
            mapper = [find_program("epmd", "rabbitmq-server"), "-port", str(self.mapper_port)]
            self._mapper = subprocess.Popen(
                [*mapper, "-address", HOST, "-relaxed_command_check"], env=self._environment()
            )
        return super().start(wait)

    def stop(self) -> None:
        """End it politely; connected clients are told (CONNECTION_FORCED)."""
        super().stop()
        self._wait_gone()

    def kill(self) -> None:
        super().kill()
        self._wait_gone()

    def remove(self) -> None:
        super().remove()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
            self._mapper = None

    def _wait_gone(self) -> None:
        """Wait until its name is free again: the mapper notices a death a moment later."""
        if self._mapper is None:
            return
        command = [find_program("epmd", "rabbitmq-server"), "-port", str(self.mapper_port)]
        name = self.node.partition("@")[0]
        wait_until(
            lambda: name not in _run([*command, "-names"], self._environment()),
            "the node's name is free again",
            turn=lambda: time.sleep(0.1),
        )
