"""Trip: what was booked is given back when a later step fails, and the traveller hears of it in any case.

python examples/trip/main.py
"""

import asyncio
from pathlib import Path

import durable_flow as df

HERE = Path(__file__).parent


class Agency:
    """Knows who gets a visa. The hotel in Rome does not answer at once when a room is given back."""

    def __init__(self) -> None:
        self.tries = 0

    async def book_flight(self, traveller: str) -> str:
        return f"a seat for {traveller}"

    async def cancel_flight(self, ticket: str) -> None:
        print(f"  given back: {ticket}")

    async def book_room(self, city: str) -> str:
        return f"a room in {city}"

    async def cancel_room(self, room: str) -> None:
        self.tries += 1
        if self.tries == 1:
            raise ConnectionError("the hotel does not answer")
        print(f"  given back: {room}")

    async def ask_for_visa(self, traveller: str) -> str:
        if traveller == "Bo":
            raise PermissionError("no visa for Bo")
        return f"a visa for {traveller}"

    async def write(self, traveller: str, text: str) -> None:
        print(f"  to {traveller}: {text}")


async def main() -> None:
    async with df.Runtime("sqlite://:memory:", workflows=[HERE], services={"Agency": Agency()}) as runtime:
        runner = runtime.runner("trip")
        for traveller in ("Ada", "Bo"):
            print(f"{traveller} wants to travel")
            result = await runner.run({"traveller": traveller, "cities": ["Oslo", "Rome"]}, execution_id=traveller)
            print(f"  {result.status}: {result.output or result.error}")

        print("\nwhat happened after Bo's trip had failed:")
        for entry in await runtime.store.entries("Bo"):
            if entry.path.startswith("~"):
                print(f"  {entry.path:32} {entry.action}")
        try:
            await runner.retry("Bo")
        except df.ConflictError as error:
            print(f"ConflictError: {error}")


asyncio.run(main())
