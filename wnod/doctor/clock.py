"""Is the clock kept right? Munge refuses messages from a skewed clock, and so does TLS."""

from collections.abc import Callable, Iterator, Sequence

from wnod.doctor.finding import CommandFailed, Finding, Verdict, output_of


def check_clock(ask: Callable[[Sequence[str]], str] = output_of) -> Iterator[Finding]:
    """The system says that its clock is synchronised."""
    try:
        answer = ask(["timedatectl", "show", "--property=NTPSynchronized", "--value"]).strip()
    except CommandFailed as error:
        yield Finding("clock", Verdict.SKIP, f"cannot be found out: {error}")
        return
    if answer == "yes":
        yield Finding("clock", Verdict.OK, "synchronised")
    else:
        yield Finding("clock", Verdict.WARN, "not synchronised", "install chrony; slow clocks break munge and TLS")
