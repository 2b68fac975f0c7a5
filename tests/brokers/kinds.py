"""The brokers of taskiq that are tested with, made from the URL of a server and a name that nobody else uses there."""

from __future__ import annotations

from collections.abc import Callable

from taskiq import AsyncBroker


def redis_streams(url: str, name: str) -> AsyncBroker:
    from taskiq_redis import RedisStreamBroker

    # With a socket_timeout redis-py uses asyncio.wait_for, which in Python 3.11 may lose the cancellation at the end.
    return RedisStreamBroker(url, queue_name=name, consumer_group_name=name, consumer_id="0", socket_timeout=None)


def rabbitmq(url: str, name: str) -> AsyncBroker:
    from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

    kind = QueueType.CLASSIC
    return AioPikaBroker(
        url,
        exchange=Exchange(name=name, durable=False, auto_delete=True),
        task_queues=[Queue(name=name, type=kind, durable=False)],
        dead_letter_queue=Queue(name=f"{name}.dead", type=kind, durable=False),
    )


def nats_jetstream(url: str, name: str) -> AsyncBroker:
    from taskiq_nats import PullBasedJetStreamBroker

    return PullBasedJetStreamBroker(url, subject=name, stream_name=name, durable=name)


KINDS: dict[str, Callable[[str, str], AsyncBroker]] = {
    "redis_streams": redis_streams,
    "rabbitmq": rabbitmq,
    "nats_jetstream": nats_jetstream,
}

SERVERS = {"redis_streams": "redis_url", "rabbitmq": "rabbitmq_url", "nats_jetstream": "nats_url"}
"""The fixtures with their URLs."""


async def remove(kind: str, url: str, name: str) -> None:
    """Nothing of a broker is left on the server."""
    if kind == "redis_streams":
        from redis.asyncio import Redis

        async with Redis.from_url(url) as client:
            await client.unlink(name, f"autoclaim:{name}:{name}")
    elif kind == "rabbitmq":
        import aio_pika

        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            for queue in (name, f"{name}.dead"):
                await channel.queue_delete(queue)
    else:
        import nats

        client = await nats.connect(url)
        await client.jetstream().delete_stream(name)
        await client.close()
