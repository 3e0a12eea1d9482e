"""What can go wrong in a conversation: our mistake, or theirs. Each carries the code that goes on the wire."""

from protocol.messages import Code


class ProtocolError(Exception):
    """Root of this package's errors."""

    code = Code.INTERNAL


class OurMistake(ProtocolError):
    """This end was about to say something the protocol forbids. A bug: nothing was sent."""


class TheirMistake(ProtocolError):
    """The peer said something the protocol forbids. The connection is closed, nothing it said is lost."""

    def __init__(self, text: str, code: Code = Code.BAD_MESSAGE) -> None:
        super().__init__(text)
        self.code = code
