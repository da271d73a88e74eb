"""What repmgr sends is accepted as it is; what it would not send is refused in a short line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import CATALOGUE, Event, RoleClaim, parse_event

# The calls of event_notification() in repmgr 4.0.0 to 5.5.0 that reach the script.
REPMGR = """
cluster_created primary_register primary_unregister standby_clone standby_register standby_register_sync
standby_unregister standby_promote standby_follow standby_switchover witness_register witness_unregister node_rejoin
cluster_cleanup bdr_register bdr_unregister
"""
REPMGRD = """
repmgrd_start repmgrd_reload repmgrd_terminate repmgrd_shutdown repmgrd_local_disconnect repmgrd_local_reconnect
repmgrd_standby_reconnect repmgrd_upstream_disconnect repmgrd_upstream_reconnect repmgrd_failover_promote
repmgrd_failover_follow repmgrd_failover_abort repmgrd_failover_aborted repmgrd_promote_error standby_disconnect_manual
standby_failure standby_recovery child_node_disconnect child_node_reconnect child_node_new_connect
child_nodes_disconnect_command bdr_failover bdr_recovery bdr_reconnect
"""
KNOWN = (REPMGR + REPMGRD).split()


def test_the_catalogue_is_repmgrs_list():
    assert sorted(set(CATALOGUE) - {"repmgr_hooks_check"}) == sorted(KNOWN)


def test_config_reload_never_reaches_the_script():
    assert "repmgrd_config_reload" not in CATALOGUE


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("primary_register", RoleClaim.PRIMARY),
        ("standby_promote", RoleClaim.PRIMARY),
        ("standby_switchover", RoleClaim.PRIMARY),
        ("repmgrd_failover_promote", RoleClaim.PRIMARY),
        ("standby_register", RoleClaim.STANDBY),
        ("standby_follow", RoleClaim.STANDBY),
        ("node_rejoin", RoleClaim.STANDBY),
        ("repmgrd_standby_reconnect", RoleClaim.STANDBY),
        ("repmgrd_failover_follow", RoleClaim.STANDBY),
        ("repmgrd_promote_error", RoleClaim.TROUBLE),
        ("child_node_disconnect", RoleClaim.NOTE),  # its %n is the primary, the child stands in %d only
        ("primary_unregister", RoleClaim.NOTE),  # its %n is the node that ran the command
        ("repmgr_hooks_check", RoleClaim.NOTE),  # what `check --end-to-end` sends must change nothing
        ("cluster_created", RoleClaim.NOTE),  # also sent by `witness register`, with the witness's id
    ],
)
def test_an_event_claims_a_role_of_its_node(name, meaning):
    assert Event(2, name).meaning is meaning


def test_events_that_claim_a_primary_are_exactly_these():
    claimed = {name for name, kind in CATALOGUE.items() if kind.meaning is RoleClaim.PRIMARY}
    assert claimed == {"primary_register", "standby_promote", "standby_switchover", "repmgrd_failover_promote"}


@pytest.mark.parametrize(
    ("words", "event"),
    [
        (["2", "standby_promote"], Event(2, "standby_promote")),
        (["2", "standby_promote", "0"], Event(2, "standby_promote", success=False)),
        (["2", "standby_promote", "1", ""], Event(2, "standby_promote")),
        (["2", "standby_promote", "1", "", ""], Event(2, "standby_promote")),
        (["1", "repmgrd_standby_reconnect", "1", "-1"], Event(1, "repmgrd_standby_reconnect")),
        (["2", "standby_switchover", "1", "1"], Event(2, "standby_switchover", other_node=1)),
        (["2147483647", "node_rejoin"], Event(2147483647, "node_rejoin")),
        (
            ["2", "repmgrd_failover_promote", "1", "1", "2026-11-20 03:00:00.123456+00"],
            Event(2, "repmgrd_failover_promote", True, 1, "2026-11-20 03:00:00.123456+00"),
        ),
        (
            ["2", "repmgrd_promote_error", "1", "", "2026-11-20 03:00:00+0000"],
            Event(2, "repmgrd_promote_error", timestamp="2026-11-20 03:00:00+0000"),
        ),
    ],
)
def test_what_repmgr_sends_is_accepted(words, event):
    assert parse_event(words) == event


NOT_A_NODE_ID = ["1;reboot", "-1", "", "0", "01", "+1", " 1", "1 ", "1\n", "1.0", "0x1", "1e3", "$(id)", "2147483648"]
UNICODE_DIGITS = ["١", "1٢", "²", "१२", "１", "𝟙"]


@pytest.mark.parametrize("node", [*NOT_A_NODE_ID, *UNICODE_DIGITS, "9" * 10_000])
def test_a_node_id_is_a_plain_number(node):
    with pytest.raises(UsageError, match="NODE is a repmgr node id"):
        parse_event([node, "standby_promote"])


@pytest.mark.parametrize("other", ["1;reboot", "0", "-2", "--1", " ", "x", *UNICODE_DIGITS])
def test_the_other_node_is_a_plain_number_too(other):
    with pytest.raises(UsageError, match="OTHER_NODE is a repmgr node id"):
        parse_event(["2", "standby_promote", "1", other])


@pytest.mark.parametrize("success", ["2", "", "true", "-1", "01", "1 ", "１"])
def test_success_is_0_or_1(success):
    with pytest.raises(UsageError, match="SUCCESS is 0 or 1"):
        parse_event(["2", "standby_promote", success])


@pytest.mark.parametrize("timestamp", ["\n", "\0", "\x1b[2J", "2026-11-20\t03:00", "x" * 65, "3 h\xa0", "x\n", "\x7f"])
def test_a_timestamp_is_short_and_printable(timestamp):
    with pytest.raises(UsageError, match="TIMESTAMP is at most 64"):
        parse_event(["2", "standby_promote", "1", "", timestamp])


@pytest.mark.parametrize(
    "name",
    ["STANDBY_PROMOTE", "standby_promote;reboot", "standby_promote\n", "", "x" * 64, "1", "_", "é", "a-b", "a b"],
)
def test_what_is_no_name_of_an_event_is_refused(name):
    with pytest.raises(UsageError, match="EVENT is a name such as standby_promote"):
        parse_event(["2", name])


@pytest.mark.parametrize("name", ["standby_split", "repmgrd_failover_promote2", "x" * 63])
def test_an_event_of_a_newer_repmgr_claims_nothing(name):
    event = parse_event(["2", name])
    assert (event.name, event.meaning) == (name, RoleClaim.NOTE)


@pytest.mark.parametrize("count", [0, 1, 6, 20])
def test_an_event_has_two_to_five_words(count):
    with pytest.raises(UsageError, match=f"got {count} arguments"):
        parse_event(["2"] * count)


def test_swapped_words_are_refused():
    with pytest.raises(UsageError):
        parse_event(["standby_promote", "2"])


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("rubbish", ["x" * 10_000, "\x1b[2J\n\r\0" * 20, "'\"`$(reboot)" * 50, "é" * 100])
def test_the_message_is_short_and_printable(place, rubbish):
    words = ["2", "standby_promote", "1", "1", ""]
    words[place] = rubbish
    with pytest.raises(UsageError) as error:
        parse_event(words)
    assert len(str(error.value)) < 300
    assert str(error.value).isascii()
    assert str(error.value).isprintable()


def test_the_message_is_short_for_emoji():
    with pytest.raises(UsageError) as error:
        parse_event(["2", "\N{FIRE}" * 50])
    assert len(str(error.value)) < 300


LIKELY = st.sampled_from(["1", "2", "", "-1", "0", "standby_promote", "2026-11-20 03:00:00+00", "1;reboot", "²"])


@given(st.lists(LIKELY | st.text(max_size=30), max_size=7))
def test_any_words_are_an_event_or_bad_input(words):
    try:
        event = parse_event(words)
    except UsageError as error:
        assert str(error).isprintable()
    else:
        assert 1 <= event.node < 2**31
        assert event.name in KNOWN or re.fullmatch("[a-z][a-z0-9_]{0,62}", event.name)
        assert event.timestamp.isascii()


def test_an_event_reads_as_words():
    assert str(parse_event(["2", "standby_promote"])) == "standby_promote of node 2"
