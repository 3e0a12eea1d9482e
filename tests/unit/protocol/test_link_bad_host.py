"""A hostmaster that misbehaves, as a bait sees it: a listener with a good certificate that says what a test likes."""

import json
from typing import Any

import msgspec
from twisted.protocols.tls import TLSMemoryBIOFactory

from protocol.framing import frame
from protocol.link import BaitEnd
from tests.unit.protocol.link_case import NEW, Giving, LinkCase, Raw
from tests.unit.protocol.memory_net import Heard, authority


class BadHostTests(LinkCase):
    def setUp(self) -> None:
        super().setUp()
        self.net.reactor.tcpServers.clear()

    def meet(self, **other: Any) -> tuple[Raw, BaitEnd, Heard]:
        """A bait that says hello to our listener, which answers a welcome with these facts."""
        listener = Raw()
        factory = TLSMemoryBIOFactory(authority().host(), False, Giving(listener), clock=self.net.reactor)
        self.net.reactor.tcpServers.append(("127.0.0.1", factory))
        bait, heard = self.make_bait()
        self.net.refuse = True
        hello = json.loads(listener.bodies[0])
        welcome = {
            "type": "welcome",
            "version": 1,
            "name": "h1",
            "epoch": 1,
            "session": hello["session"],
            "resumed": False,
        }
        listener.say(frame(msgspec.json.encode(welcome | other)))
        self.net.settle()
        return listener, bait, heard

    def test_a_good_welcome_is_taken(self) -> None:
        listener, bait, _ = self.meet()
        assert bait.connected
        assert listener.bodies[1:] == [b'{"ack":0}']

    def test_a_welcome_in_another_name(self) -> None:
        _, bait, heard = self.meet(name="h7")
        assert not bait.connected
        assert heard.events == []

    def test_a_resumption_of_what_never_was(self) -> None:
        _, bait, heard = self.meet(resumed=True)
        assert not bait.connected
        assert heard.events == []

    def test_garbage_in_the_session_ends_it_and_the_next_try_waits_long(self) -> None:
        listener, bait, heard = self.meet()
        tries = len(self.net.tries)
        listener.say(frame(b"rubbish"))
        self.net.advance(14)
        assert heard.events == [("connected", "h1", 1, NEW), ("disconnected", "h1")]
        assert b'"code":"bad-message"' in listener.bodies[-1]
        assert len(self.net.tries) == tries
        self.net.advance(40)
        assert len(self.net.tries) > tries
        assert not bait.connected

    def test_a_lost_session_is_tried_again_soon(self) -> None:
        listener, _, _ = self.meet()
        tries = len(self.net.tries)
        listener.say(frame(b'{"ack":0,"msg":{"type":"error","code":"session-lost","text":""}}'))
        self.net.advance(2)
        assert len(self.net.tries) > tries
