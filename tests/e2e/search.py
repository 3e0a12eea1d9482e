"""Is a text in a file, or in a process's memory (/proc/PID/mem)? `search.py FILE TEXT` says yes or no."""

import os
import sys

STEP = 16 << 20


def parts(path: str) -> list[tuple[int, int]]:
    """Where there is something: the data of a sparse file, or what a process may read of its memory."""
    if not path.endswith("/mem"):
        return [(0, os.stat(path).st_size)]
    with open(path.removesuffix("mem") + "maps") as maps:
        lines = [line.split() for line in maps]
    ranges = [words[0].split("-") for words in lines if words[1].startswith("rw")]
    return [(int(start, 16), int(end, 16)) for start, end in ranges]


def is_in(path: str, text: bytes) -> bool:
    """True if the text is found; what cannot be read is passed over."""
    with open(path, "rb", buffering=0) as file:
        for start, end in parts(path):
            at = start
            while at < end:
                try:
                    found = os.pread(file.fileno(), min(STEP, end - at), at)
                except OSError:
                    break
                if text in found:
                    return True
                if len(found) < len(text):
                    break
                at += len(found) - len(text) + 1 if at + len(found) < end else len(found)
    return False


if __name__ == "__main__":
    print("yes" if is_in(sys.argv[1], sys.argv[2].encode()) else "no")
