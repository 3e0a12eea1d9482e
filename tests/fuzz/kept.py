"""The inputs that are kept: one file for each target, one input in hexadecimal on each line."""

from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def read(target: str) -> list[bytes]:
    """That target's inputs, in order."""
    path = CORPUS / f"{target}.hex"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [bytes.fromhex(line) for line in lines if not line.startswith("#")]


def write(target: str, inputs: Iterable[bytes]) -> None:
    """Keep these, each once."""
    lines = [data.hex() for data in dict.fromkeys(inputs)]
    (CORPUS / f"{target}.hex").write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
