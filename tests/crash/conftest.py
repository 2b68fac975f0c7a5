"""The stores on servers."""

from tests.crash.places import places, postgresql_place, redis_place

__all__ = ["places", "postgresql_place", "redis_place"]
