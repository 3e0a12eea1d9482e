"""Both ends of the link, with real TLS, over a network in memory."""

import pytest

from protocol.errors import OurMistake
from protocol.framing import frame
from protocol.ids import RequestId
from protocol.messages import Code, Error, HostInventory
from tests.unit.protocol.link_case import AGAIN, NEW, LinkCase, renew, renewed


class ConversationTests(LinkCase):
    def test_each_hears_of_the_other_and_messages_arrive(self) -> None:
        bait, heard = self.make_bait(epoch=7)
        assert self.at_host.events == [("connected", "bait-h1", 7, NEW)]
        assert heard.events == [("connected", "h1", 1, NEW)]
        bait.send(renew(1))
        self.host.send("bait-h1", renewed(1))
        self.net.settle()
        assert self.at_host.messages == [("bait-h1", renew(1))]
        assert heard.messages == [("h1", renewed(1))]
        assert self.host.connected_baits() == {"bait-h1"}
        assert bait.connected

    def test_any_chopping_of_the_stream_changes_nothing(self) -> None:
        self.net.piece = 3
        bait, _ = self.make_bait()
        for i in range(5):
            bait.send(renew(i))
        self.net.settle()
        assert [m for _, m in self.at_host.messages] == [renew(i) for i in range(5)]

    def test_a_broken_connection_loses_and_repeats_nothing(self) -> None:
        bait, heard = self.make_bait()
        bait.send(renew(1))
        self.host.send("bait-h1", renewed(1))
        self.net.cut()
        bait.send(renew(2))
        self.host.send("bait-h1", renewed(2))
        self.net.advance(2)
        bait.send(renew(3))
        self.net.settle()
        assert [m for _, m in self.at_host.messages] == [renew(1), renew(2), renew(3)]
        assert [m for _, m in heard.messages] == [renewed(1), renewed(2)]
        assert heard.events == [("connected", "h1", 1, NEW), ("disconnected", "h1"), ("connected", "h1", 1, AGAIN)]

    def test_a_restarted_host_means_a_new_session(self) -> None:
        bait, heard = self.make_bait()
        self.net.refuse = True
        self.stopped(self.host.stop())
        bait.send(renew(1))
        self.net.refuse = False
        self.host = self.make_host(epoch=2)
        self.net.advance(4)
        assert heard.events[-1] == ("connected", "h1", 2, NEW)
        assert self.at_host.messages == []
        bait.send(renew(2))
        self.net.settle()
        assert self.at_host.messages == [("bait-h1", renew(2))]

    def test_a_restarted_bait_means_a_new_session(self) -> None:
        first, _ = self.make_bait(epoch=1)
        self.stopped(first.stop())
        self.host.send("bait-h1", renewed(1))
        _, heard = self.make_bait(epoch=2)
        assert heard.messages == []
        assert self.at_host.events[-1] == ("connected", "bait-h1", 2, NEW)

    def test_the_newest_connection_of_a_bait_wins(self) -> None:
        _, old = self.make_bait(epoch=1)
        new, heard = self.make_bait(epoch=2)
        assert old.events == [("connected", "h1", 1, NEW), ("disconnected", "h1")]
        assert new.connected
        assert self.at_host.events == [
            ("connected", "bait-h1", 1, NEW),
            ("disconnected", "bait-h1"),
            ("connected", "bait-h1", 2, NEW),
        ]
        self.host.send("bait-h1", renewed(1))
        self.net.settle()
        assert heard.messages == [("h1", renewed(1))]

    def test_an_older_epoch_cannot_take_over_a_live_connection(self) -> None:
        bait, _ = self.make_bait(epoch=5)
        client = self.raw()
        client.say(self.hello(epoch=4))
        assert self.refusal(client) == Code.WRONG_PEER
        assert bait.connected

    def test_a_bait_that_lost_its_journal_is_let_in_when_the_old_one_is_gone(self) -> None:
        old, _ = self.make_bait(epoch=5)
        self.stopped(old.stop())
        new, _ = self.make_bait(epoch=1)
        assert new.connected

    def test_what_is_said_before_a_session_exists_is_dropped(self) -> None:
        self.net.refuse = True
        bait, _ = self.make_bait()
        bait.send(renew(1))
        self.host.send("bait-h1", renewed(1))
        self.net.refuse = False
        self.net.advance(3)
        assert bait.connected
        assert self.at_host.messages == []

    def test_saying_what_the_other_side_says_is_our_mistake(self) -> None:
        bait, _ = self.make_bait()
        with pytest.raises(OurMistake):
            bait.send(renewed(1))
        with pytest.raises(OurMistake):
            self.host.send("bait-h1", HostInventory(vms=(1,), complete=True))  # type: ignore[arg-type]
        with pytest.raises(OurMistake):
            bait.send(Error(code=Code.INTERNAL, text="without an id"))

    def test_an_error_about_a_request_is_a_message(self) -> None:
        _, heard = self.make_bait()
        error = Error(code=Code.NOT_READY, text="starting", id=RequestId("1" * 32))
        self.host.send("bait-h1", error)
        self.net.settle()
        assert heard.messages == [("h1", error)]

    def test_no_timer_and_no_connection_is_left_after_stop(self) -> None:
        bait, _ = self.make_bait()
        stopped = [bait.stop(), self.host.stop()]
        self.net.advance(6)
        for deferred in stopped:
            self.successResultOf(deferred)
        assert self.net.reactor.getDelayedCalls() == []
        assert self.net.pipes == []


class LostWelcomeTests(LinkCase):
    def test_a_bait_that_may_have_missed_the_welcome_is_not_resumed(self) -> None:
        """Its counts may belong to an older session with the same id."""
        for _ in range(2):
            client = self.raw()
            client.say(self.hello())
            self.net.settle()
            assert b'"resumed":false' in client.bodies[0]

    def test_a_bait_that_heard_it_is_resumed(self) -> None:
        first = self.raw()
        first.say(self.hello() + frame(b'{"ack":0}'))
        self.net.settle()
        second = self.raw()
        second.say(self.hello())
        self.net.settle()
        assert b'"resumed":true' in second.bodies[0]
        self.net.advance(6)
        assert b'"code":"superseded"' in first.bodies[-1]
