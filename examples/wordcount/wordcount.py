"""An ordinary taskq application: one task that counts the words of one file."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import TypedDict

from taskq import App

# No settings: broker and results live in ./taskq.db, made on first use.
app = App("wordcount")

WORD = re.compile(r"[A-Za-z_]\w*")


class Count(TypedDict):
    """The words of one file, and the process that counted them."""

    process: int
    words: dict[str, int]


@app.task
def count_words(path: str) -> Count:
    """How often each word occurs in the file."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return {"process": os.getpid(), "words": dict(Counter(WORD.findall(text)))}
