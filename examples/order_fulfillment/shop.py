"""The services of a small shop. They keep their own SQLite database, as services do: durable_flow knows nothing of it.

The idea to take away is in `Payments.charge`: a step that was under way when its process died runs again, with the same
`idempotency_key`. A service that writes the key together with its effect turns "at least once" into "exactly once".
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import durable_flow as df

TABLES = """
    CREATE TABLE stock (sku TEXT PRIMARY KEY, cents INTEGER, available INTEGER CHECK (available >= 0));
    INSERT INTO stock VALUES ('engine', 90000, 5), ('gear', 1250, 500), ('card', 300, 1000), ('abacus', 4500, 0);
    CREATE TABLE reservations (order_id TEXT, sku TEXT, quantity INTEGER, PRIMARY KEY (order_id, sku));
    CREATE TABLE requests (n INTEGER PRIMARY KEY, key TEXT, order_id TEXT);
    CREATE TABLE charges (key TEXT PRIMARY KEY, order_id TEXT, cents INTEGER, refunded INTEGER DEFAULT 0);
    CREATE TABLE parcels (key TEXT PRIMARY KEY, order_id TEXT, tracking TEXT);
    PRAGMA user_version = 1;
"""


class Database:
    """One connection and one transaction per call: services may be called from several threads at once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in TABLES.split(";"):
                    connection.execute(statement)
            yield connection
            connection.execute("COMMIT")  # what raised before leaves no trace: closing rolls back

    def write(self, sql: str, *parameters: Any) -> None:
        with self.transaction() as connection:
            connection.execute(sql, parameters)

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(sql, parameters)]


class UnknownArticle(Exception):
    pass


class SoldOut(Exception):
    pass


class CardDeclined(Exception):
    pass


class Undeliverable(Exception):
    pass


class Inventory:
    def __init__(self, database: Database) -> None:
        self.database = database

    def price(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        prices = {row["sku"]: row["cents"] for row in self.database.rows("SELECT sku, cents FROM stock")}
        for item in items:
            if item["sku"] not in prices:
                raise UnknownArticle(f"there is no article {item['sku']!r}")
        cents = sum(prices[item["sku"]] * item["quantity"] for item in items)
        return {"cents": cents, "total": f"{cents / 100:,.2f} EUR"}

    def reserve(self, order_id: str, items: list[dict[str, Any]]) -> None:
        """All items or none. What is reserved for this order already (we were asked before) is not reserved again."""
        with self.database.transaction() as connection:
            if connection.execute("SELECT 1 FROM reservations WHERE order_id = ?", (order_id,)).fetchone():
                return
            for item in items:
                sku, quantity = item["sku"], item["quantity"]
                take = "UPDATE stock SET available = available - ? WHERE sku = ? AND available >= ?"
                if connection.execute(take, (quantity, sku, quantity)).rowcount == 0:
                    raise SoldOut(f"there are not {quantity} of {sku!r} left")
                connection.execute("INSERT INTO reservations VALUES (?, ?, ?)", (order_id, sku, quantity))

    def release(self, order_id: str) -> None:
        with self.database.transaction() as connection:
            reserved = connection.execute("SELECT quantity, sku FROM reservations WHERE order_id = ?", (order_id,))
            connection.executemany("UPDATE stock SET available = available + ? WHERE sku = ?", reserved.fetchall())
            connection.execute("DELETE FROM reservations WHERE order_id = ?", (order_id,))


class Payments:
    """A bank with test cards, as payment providers have them: …0002 is declined, …0119 fails at the first attempt."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def charge(self, order_id: str, cents: int, card: str, context: df.StepContext) -> dict[str, Any]:
        """Charges the card once per idempotency key, however often it is called."""
        key = context.idempotency_key
        self.database.write("INSERT INTO requests (key, order_id) VALUES (?, ?)", key, order_id)
        if card.endswith("0002"):
            raise CardDeclined("the bank declined the card ending in 0002")
        if card.endswith("0119") and context.attempt == 1:
            raise ConnectionError("the bank hung up")
        once = "INSERT INTO charges (key, order_id, cents) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"
        self.database.write(once, key, order_id, cents)
        return {"key": key, "cents": cents}

    def refund(self, order_id: str) -> None:
        self.database.write("UPDATE charges SET refunded = 1 WHERE order_id = ?", order_id)


class Shipping:
    def __init__(self, database: Database) -> None:
        self.database = database

    def book(self, order_id: str, country: str, context: df.StepContext) -> dict[str, Any]:
        if country == "AQ":
            raise Undeliverable("nobody delivers to Antarctica")
        once = "INSERT INTO parcels VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"
        self.database.write(once, context.idempotency_key, order_id, f"PARCEL-{order_id}")
        return self.database.rows("SELECT tracking FROM parcels WHERE key = ?", context.idempotency_key)[0]


def services_on(database: Database) -> dict[str, Any]:
    return {"Inventory": Inventory(database), "Payments": Payments(database), "Shipping": Shipping(database)}


services = services_on(Database(os.environ.get("SHOP_DATABASE", "shop.db")))
"""What `durable-flow run … --services shop` finds."""
