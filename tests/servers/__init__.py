"""Real servers for tests, and a network between that can be broken.

    from servers import Proxy, RabbitMQ, RedisSentinel, RedisServer, Vhost

    with RedisServer() as server:              # a process of its own on a free loopback port
        server.url                             # redis://127.0.0.1:<port>/0
        server.kill(); server.start()          # -9; back on the same port with what was stored
        with Proxy(server.port) as proxy:
            url = proxy.through(server.url)    # the same server, by way of the proxy
            proxy.cut()                        # every connection breaks; new ones are taken
            proxy.refuse(); proxy.accept()     # "connection refused"; and back again
            proxy.stall(); proxy.flow()        # bytes wait; and go on
            proxy.cut_when(lambda way, data: way == "down")    # at this very moment

Fixtures (servers/fixtures.py): `redis_server`, `redis_url`, `private_redis`, `rabbitmq_url`,
`private_rabbitmq`, `postgres_database`. Nothing here touches what somebody else has started or
stored; any number of test runs go on side by side.
"""

from servers.certificates import Certificates
from servers.postgres import PostgresDatabase
from servers.process import ServerMissing
from servers.proxy import Proxy
from servers.rabbitmq import RabbitMQ, Vhost, shared_rabbitmq
from servers.redis import RedisSentinel, RedisServer

__all__ = (
    "Certificates",
    "PostgresDatabase",
    "Proxy",
    "RabbitMQ",
    "RedisSentinel",
    "RedisServer",
    "ServerMissing",
    "Vhost",
    "shared_rabbitmq",
)
