"""The guest channel: lines on the virtio-serial port `org.wnod.guest.0`, readable by a POSIX shell.

Words are separated by one space, free text is percent-encoded, a line has at most MAX_LINE bytes. The
guest's identity is the socket QEMU connects to, never a word of the line. docs/protocol.md, part two.
"""

import base64
from dataclasses import dataclass
from urllib.parse import quote, unquote

from protocol.errors import TheirMistake
from protocol.ids import BootId, Generation

PORT = "org.wnod.guest.0"
VERSION = 1
MAX_LINE = 8192
MAX_STATUS = 2**31
"""As `finished` of SrvMsg carries it (protocol.messages)."""


@dataclass(frozen=True, slots=True)
class GuestHello:
    """The guest's kernel runs and its agent listens. Repeated, because a port knows no connect."""

    boot_id: BootId
    name: str


@dataclass(frozen=True, slots=True)
class GuestStandby:
    """All is done that needs no secret and no owner: the VM may be paused or saved, and later told to go."""

    boot_id: BootId


@dataclass(frozen=True, slots=True)
class GuestReady:
    """The LRMS daemon in the guest has started."""

    boot_id: BootId


@dataclass(frozen=True, slots=True)
class MayStart:
    """The job starter in the VM asks whether this run may start. `number` pairs the answer."""

    boot_id: BootId
    number: int
    job: str
    task: int | None
    restart: int
    uid: int


@dataclass(frozen=True, slots=True)
class GuestFinished:
    """The post-exec in the VM says the run has ended."""

    boot_id: BootId
    job: str
    task: int | None
    restart: int
    status: int | None


@dataclass(frozen=True, slots=True)
class GuestFailed:
    """A boot stage failed in the guest."""

    boot_id: BootId
    stage: str
    text: str


FromGuest = GuestHello | GuestStandby | GuestReady | MayStart | GuestFinished | GuestFailed


def parse(line: bytes) -> FromGuest:
    """Read one line (without its newline) from a guest.

    Raises TheirMistake for anything that is not a line of this protocol: a guest is not trusted.
    """
    try:
        words = line.decode("ascii").split(" ")
        return _parse_words(words[0], words[1:])
    except (UnicodeDecodeError, ValueError, IndexError) as e:
        raise TheirMistake(f"guest line not understood: {line[:80]!r} ({e})") from e


def _parse_words(verb: str, words: list[str]) -> FromGuest:
    match verb, words:
        case "hello", ["1", boot_id, name]:
            return GuestHello(_boot_id(boot_id), _word(name))
        case "standby", [boot_id]:
            return GuestStandby(_boot_id(boot_id))
        case "ready", [boot_id]:
            return GuestReady(_boot_id(boot_id))
        case "may-start", [boot_id, number, job, task, restart, uid]:
            return MayStart(
                _boot_id(boot_id), _number(number), _word(job), _optional(task), _number(restart), _number(uid)
            )
        case "finished", [boot_id, job, task, restart, status]:
            return GuestFinished(_boot_id(boot_id), _word(job), _optional(task), _number(restart), _status(status))
        case "failed", [boot_id, stage, *text]:
            return GuestFailed(_boot_id(boot_id), _word(stage), _free_text(text))
    raise ValueError(f"no verb {verb!r} with {len(words)} words in version {VERSION}")


def _free_text(words: list[str]) -> str:
    text = unquote(" ".join(words), errors="replace")[:512]
    return "".join(c if c.isprintable() else "?" for c in text)


def _boot_id(word: str) -> BootId:
    if len(word) != 36 or not set(word) <= set("0123456789abcdef-"):
        raise ValueError("boot id is not 36 characters of hex and hyphens")
    return BootId(word)


def _word(word: str) -> str:
    if not 1 <= len(word) <= 64 or not all(c.isalnum() or c in "._+-" for c in word):
        raise ValueError(f"{word[:64]!r} is not a plain word")
    return word


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 10):
        raise ValueError(f"{word[:20]!r} is not a number")
    return int(word)


def _optional(word: str) -> int | None:
    return None if word == "-" else _number(word)


def _status(word: str) -> int | None:
    status = _optional(word)
    if status is not None and status > MAX_STATUS:
        raise ValueError(f"{status} is no exit status")
    return status


def welcome(generation: Generation) -> bytes:
    """Answer to hello."""
    return _line("welcome", str(VERSION), str(generation))


def setting(key: str, value: str) -> bytes:
    """One `set` line: key is one of the words docs/protocol.md lists."""
    return _line("set", key, _escape(value))


def host_entry(address: str, name: str) -> bytes:
    """One line for the guest's /etc/hosts."""
    return _line("host", address, name)


def mount(kind: str, source: str, target: str, options: str) -> bytes:
    """A file system of the site the guest mounts before it serves."""
    return _line("mount", kind, _escape(source), _escape(target), _escape(options))


def account(passwd_line: str) -> bytes:
    """The owner's account, in passwd(5) form with x for the password."""
    return _line("account", _escape(passwd_line))


def group(group_line: str) -> bytes:
    """One of the owner's groups, in group(5) form."""
    return _line("group", _escape(group_line))


def credential(name: str, mode: int, content: bytes) -> bytes:
    """A secret for the guest's tmpfs. Never log this line."""
    return _line("credential", name, f"{mode:04o}", base64.b64encode(content).decode("ascii"))


def file(name: str, part: int, parts: int, content: str) -> bytes:
    """One part, from 1, of a file the LRMS's daemon is to find at standby: base64, or `-` for nothing. No secret."""
    return _line("file", name, str(part), str(parts), content)


def clock(epoch_s: float) -> bytes:
    """Step the guest's clock to this time (seconds since 1970)."""
    return _line("time", f"{epoch_s:.3f}")


def seed(content: bytes) -> bytes:
    """Fresh random bytes (32 to 64) for the guest's kernel, which may be a copy of another. Never log this line."""
    if not 32 <= len(content) <= 64:
        raise ValueError(f"seed of {len(content)} bytes: give 32 to 64 of the host's random bytes")
    return _line("seed", base64.b64encode(content).decode("ascii"))


def standby() -> bytes:
    """Configure all that needs no secret and no owner, and say so: in the place of `go`, which may come later."""
    return _line("standby")


def go() -> bytes:
    """All is given: configure and start."""
    return _line("go")


def allow(number: int) -> bytes:
    """The run may start."""
    return _line("allow", str(number))


def deny(number: int, reason: str) -> bytes:
    """The run may not start here: give the job back."""
    return _line("deny", str(number), _escape(reason))


def _escape(text: str) -> str:
    return quote(text, safe="") or "%20"


def _line(*words: str) -> bytes:
    line = " ".join(words).encode("ascii") + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError(f"guest line of {len(line)} bytes is over the limit of {MAX_LINE}: {words[0]}")
    return line
