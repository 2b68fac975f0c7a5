"""`Journal`: what the runtime tells about itself, to whatever the application has made of logging."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import msgspec


class Journal(msgspec.Struct, frozen=True):
    """A logger whose handlers and filters may be broken: what they raise changes nothing.

    >>> import logging
    >>> class Full(logging.Handler):
    ...     def emit(self, record: logging.LogRecord) -> None:
    ...         raise OSError("no space left on device")
    >>> logging.getLogger("doctest.journal").addHandler(Full())
    >>> Journal("doctest.journal").warning("nobody reads %s", "this")
    """

    name: str

    def debug(self, message: str, *values: Any) -> None:
        self._tell(logging.DEBUG, message, values)

    def info(self, message: str, *values: Any) -> None:
        self._tell(logging.INFO, message, values)

    def warning(self, message: str, *values: Any) -> None:
        self._tell(logging.WARNING, message, values)

    def error(self, message: str, *values: Any, exc_info: BaseException | bool | None = None) -> None:
        self._tell(logging.ERROR, message, values, exc_info)

    def exception(self, message: str, *values: Any) -> None:
        self._tell(logging.ERROR, message, values, True)

    def _tell(
        self, level: int, message: str, values: tuple[Any, ...], exc_info: BaseException | bool | None = None
    ) -> None:
        with suppress(Exception):  # there is no other place to tell it
            logging.getLogger(self.name).log(level, message, *values, exc_info=exc_info, stacklevel=3)


class StepLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger that a service is given: a broken handler of the host does not fail the step either.

    >>> StepLogger(logging.getLogger("doctest.journal"), {"step": "charge"}).info("charged %s", "alice")
    """

    def log(self, level: int, msg: object, *args: Any, **options: Any) -> None:
        """Writes a record; what the other methods do, too."""
        options["stacklevel"] = options.get("stacklevel", 1) + 1
        with suppress(Exception):
            super().log(level, msg, *args, **options)
