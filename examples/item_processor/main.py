"""Item processor: one bad item and one bad connection in a batch of four, and what becomes of each.

python examples/item_processor/main.py
"""

import asyncio
from pathlib import Path

import durable_flow as df

HERE = Path(__file__).parent


class Contacts:
    def __init__(self) -> None:
        self.saved: list[str] = []
        self.dropped: set[str] = set()

    def clean(self, email: str) -> str:
        if "@" not in email:
            raise ValueError(f"{email!r} is not an e-mail address")
        return email.strip().lower()

    async def save(self, email: str, context: df.StepContext) -> str:
        """The connection breaks on the first two attempts for grace. `context` tells which attempt this is."""
        if email.startswith("grace") and context.attempt < 3:
            raise ConnectionError("the address book hung up")
        self.saved.append(email)
        return f"saved {email}"


async def main() -> None:
    contacts = Contacts()
    async with df.Runtime(
        "sqlite://:memory:", workflows=[HERE / "workflow.yml"], services={"Contacts": contacts}
    ) as runtime:
        emails = ["Ada@Example.com", "not an address", "grace@example.com", "alan@example.com"]
        result = await runtime.runner("import_contacts").run({"contacts": [{"email": email} for email in emails]})

        print(f"{result.status}: {result.output['saved']} saved, {result.output['failed']} failed")
        for item in result.output["contacts"]:
            print(f"  {item}")

        print("\nStep by step, as committed (each finished item is durable: a crash resumes in the item it was at):")
        for entry in await runtime.store.entries(result.execution_id):
            if entry.step_type == "call":
                attempt = f"attempt {entry.attempt}" if entry.attempt > 1 or entry.error else ""
                print(f"  {entry.path:<22} {entry.action:<10} {attempt:<10} {entry.error or entry.output}")
    assert contacts.saved == ["ada@example.com", "grace@example.com", "alan@example.com"]


asyncio.run(main())
