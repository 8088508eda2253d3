"""Other processes for tests: forked, watched through a pipe, gone at the end."""

from __future__ import annotations

import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable
from typing import Any

from patience import PATIENCE_S


class Forked:
    """Runs `function(tell)` in a forked child; what it tells can be waited for here."""

    def __init__(self, function: Callable[[Callable[[Any], None]], Any]) -> None:
        self._reader, writer = os.pipe()
        self._writer_file = None
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            self._file = os.fdopen(self._reader, "rb")
            return
        code = 1
        try:
            os.close(self._reader)
            with os.fdopen(writer, "wb", buffering=0) as file:
                function(lambda thing: pickle.dump(thing, file))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def hear(self, seconds: float = PATIENCE_S) -> Any:
        """The next thing the child tells."""
        assert select.select([self._file], [], [], seconds)[0], "the child says nothing"
        return pickle.load(self._file)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def join(self) -> int:
        """Wait for its end; gives its exit code, negative for a signal."""
        if self.pid:
            self._file.close()
            _, status = os.waitpid(self.pid, 0)
            self.pid = 0
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.pid:
            self.kill()
            self.join()
