"""Who and what the link refuses, and that nobody else notices."""

import datetime as dt

import msgspec
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from protocol.errors import TheirMistake
from protocol.framing import frame
from protocol.ids import HostName
from protocol.link import BaitEnd, HostEnd, Role, Tls, TlsMistake
from protocol.messages import BaitInventory, Code
from protocol.session import Envelope
from tests.unit.protocol.link_case import NEW, Giving, LinkCase, Raw, renew
from tests.unit.protocol.memory_net import Authority, Heard, authority
from wnod import pki


@implementer(IOpenSSLClientConnectionCreator)
class Plain:
    """A client that shows no certificate and speaks one version of TLS only."""

    def __init__(self, version: int) -> None:
        self._version = version

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(self._version)
        context.set_max_proto_version(self._version)
        return SSL.Connection(context, None)


class RefusalTests(LinkCase):
    def setUp(self) -> None:
        super().setUp()
        self.other, self.heard = self.make_bait("bait-h2")

    def tearDown(self) -> None:
        """Whatever was tried, the other bait must not have noticed."""
        assert self.heard.events == [("connected", "h1", 1, NEW)]
        self.other.send(renew(99))
        self.net.settle()
        assert self.at_host.messages[-1] == ("bait-h2", renew(99))
        assert "bait-h1" not in self.host.connected_baits()

    def expect_no_welcome(self, bait: BaitEnd, reason: str) -> None:
        self.net.advance(2)
        assert not bait.connected
        assert reason in " ".join(self.warnings())
        self.stopped(bait.stop())

    def test_certificate_of_another_authority(self) -> None:
        bait, _ = self.make_bait(tls=authority("elsewhere").bait())
        self.expect_no_welcome(bait, "certificate verify failed")

    def test_a_bait_that_trusts_the_site_but_shows_a_stranger(self) -> None:
        own = authority("elsewhere")
        made = own.directory / "bait-bait-h1.pem"
        own.bait()
        tls = Tls(authority().directory / "ca.pem", made, made.with_suffix(".key"))
        bait, _ = self.make_bait(tls=tls)
        self.expect_no_welcome(bait, "certificate verify failed")

    def test_expired_certificate(self) -> None:
        old = Authority(authority().directory.parent / "old")
        for name in ("ca.pem", "ca.key"):
            (old.directory / name).write_bytes((authority().directory / name).read_bytes())
        bait, _ = self.make_bait(tls=old.tls(Role.BAIT, "bait-h1", issued_ago=dt.timedelta(days=9), days=2))
        self.expect_no_welcome(bait, "certificate expired")

    def test_certificate_of_a_bait_this_host_does_not_know(self) -> None:
        client = self.raw(authority().bait("bait-h9"))
        assert self.refusal(client) == Code.WRONG_PEER

    def test_certificate_of_another_host_cannot_connect_as_a_bait(self) -> None:
        client = self.raw(authority().host("h2"))
        self.net.advance(6)
        assert client.lost is not None
        assert client.bodies == []

    def test_a_host_is_no_bait_even_with_the_name_and_purpose_of_one(self) -> None:
        self.patch(pki, "_PURPOSE", {Role.HOST: ExtendedKeyUsageOID.CLIENT_AUTH})
        client = self.raw(authority("site").host("bait-h1"))
        assert self.refusal(client) == Code.WRONG_PEER

    def test_a_client_without_a_certificate(self) -> None:
        client = self.raw(Plain(SSL.TLS1_3_VERSION))  # type: ignore[arg-type]
        client.say(self.hello())
        self.net.advance(6)
        assert client.lost is not None
        assert client.bodies == []

    def test_an_older_tls(self) -> None:
        client = self.raw(Plain(SSL.TLS1_2_VERSION))  # type: ignore[arg-type]
        self.net.advance(6)
        assert client.lost is not None
        assert "protocol version" in str(client.lost.value) or "unsupported protocol" in " ".join(self.warnings())

    def test_nothing_is_heard_after_a_farewell(self) -> None:
        client = self.raw()
        client.say(
            self.hello() + frame(b'{"ack":0,"msg":{"type":"error","code":"internal","text":"bye"}}')
            + frame(msgspec.json.encode(Envelope(ack=0, n=1, msg=renew(1))))
        )  # fmt: skip
        self.net.advance(6)
        assert client.lost is not None
        assert self.at_host.messages == []

    def test_certificate_of_a_bait_cannot_answer_as_the_host(self) -> None:
        with pytest.raises(TlsMistake):
            HostEnd(
                self.net.reactor, authority().bait(), "127.0.0.1:0", HostName("h1"), 1, frozenset(), Heard()
            )  # fmt: skip

    def test_a_server_with_the_certificate_of_a_bait_never_hears_hello(self) -> None:
        impostor = Raw()
        factory = TLSMemoryBIOFactory(authority().bait("bait-h2"), False, Giving(impostor), clock=self.net.reactor)
        real = self.net.reactor.tcpServers[:]
        self.net.reactor.tcpServers.append(("127.0.0.1", factory))
        bait, _ = self.make_bait()
        self.net.reactor.tcpServers[:] = real
        assert impostor.bodies == []
        assert "unsuitable certificate purpose" in " ".join(self.warnings()) or "verify failed" in " ".join(
            self.warnings()
        )
        self.stopped(bait.stop())

    def test_a_bait_that_is_not_permitted_any_more_is_cut_off(self) -> None:
        bait, heard = self.make_bait()
        self.host.permit(frozenset({"bait-h2"}))
        self.net.advance(60)
        assert heard.events == [("connected", "h1", 1, NEW), ("disconnected", "h1")]
        self.stopped(bait.stop())

    def test_a_host_with_another_name_is_refused_by_the_bait(self) -> None:
        bait, _ = self.make_bait(host="h7")
        self.expect_no_welcome(bait, "expected wnod:host:h7")

    def test_another_name_in_hello_than_in_the_certificate(self) -> None:
        client = self.raw()
        client.say(self.hello(name="bait-h2"))
        assert self.refusal(client) == Code.WRONG_PEER

    def test_an_old_version(self) -> None:
        client = self.raw()
        client.say(self.hello(versions=(2, 99)))
        assert self.refusal(client) == Code.WRONG_VERSION

    def test_plain_tcp(self) -> None:
        for said in (b"GET / HTTP/1.1\r\n\r\n", self.hello(), bytes(500)):
            client = Raw()
            self.net.open(client)
            client.say(said)
            self.net.advance(11)
            assert client.lost is not None

    def test_a_first_frame_that_is_too_long(self) -> None:
        client = self.raw()
        client.say((5000).to_bytes(4, "big") + b"{")
        assert self.refusal(client) == Code.BAD_MESSAGE

    def test_an_oversized_frame_ends_connection_and_session(self) -> None:
        client = self.raw()
        client.say(self.hello() + frame(b'{"ack":0}') + b"\xff\xff\xff\xff")
        self.net.advance(6)
        assert client.lost is not None
        assert b'"code":"bad-message"' in client.bodies[-1]

    def test_garbage_in_a_session(self) -> None:
        for body in (b"\x00", b"[]", b"{}", b'{"ack":1}', b'{"ack":0,"n":2,"msg":null}', b"[" * 4000):
            client = self.raw()
            client.say(self.hello() + frame(body))
            self.net.advance(6)
            assert client.lost is not None, body
            assert b'"type":"error"' in client.bodies[-1]

    def test_after_a_mistake_the_session_is_not_resumed(self) -> None:
        for again in (False, True):
            client = self.raw()
            client.say(self.hello())
            self.net.settle()
            assert b'"resumed":false' in client.bodies[0], again
            client.say(frame(b'{"ack":0}') + frame(b"rubbish"))
            self.net.advance(6)

    def test_the_same_refusal_is_logged_once(self) -> None:
        for _ in range(5):
            self.refusal_of_version()
        assert len([w for w in self.warnings() if "wrong-version" in w and "refused" in w]) == 1

    def refusal_of_version(self) -> None:
        client = self.raw()
        client.say(self.hello(versions=(2,)))
        self.net.settle()

    def test_a_message_that_fails_in_the_daemon_ends_only_its_own_session(self) -> None:
        bait, heard = self.make_bait()
        self.at_host.fail = RuntimeError("a bug")
        bait.send(renew(1))
        self.net.settle()
        self.at_host.fail = None
        assert not bait.connected
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        self.net.advance(46)
        assert heard.events[-1] == ("connected", "h1", 1, NEW)
        self.stopped(bait.stop())

    def test_a_daemon_that_fails_when_a_bait_connects_begins_anew_with_it(self) -> None:
        self.at_host.fail_at = "connected"
        bait, heard = self.make_bait()
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        self.at_host.fail_at = ""
        self.net.advance(46)
        assert heard.events[-1] == ("connected", "h1", 1, NEW)
        self.stopped(bait.stop())

    def test_a_daemon_that_fails_when_a_bait_leaves_still_hears_the_others(self) -> None:
        bait, _ = self.make_bait()
        self.at_host.fail_at = "disconnected"
        self.stopped(bait.stop())
        assert len(self.flushLoggedErrors(RuntimeError)) == 1

    def test_a_hello_after_the_bait_was_taken_off_the_list(self) -> None:
        client = self.raw()
        self.host.permit(frozenset({"bait-h2"}))
        client.say(self.hello())
        assert self.refusal(client) == Code.WRONG_PEER

    def test_a_message_the_daemon_refuses_ends_only_its_own_session(self) -> None:
        bait, _ = self.make_bait()
        self.at_host.fail = TheirMistake("not your lease", Code.NOT_PERMITTED)
        bait.send(BaitInventory(leases=()))
        self.net.settle()
        self.at_host.fail = None
        assert not bait.connected
        assert "closes (not-permitted): not your lease" in self.warnings()
        self.stopped(bait.stop())
