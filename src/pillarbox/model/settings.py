"""Every setting, typed, with its default; the text below a field is its entry in the manual.

`config.py` reads them from TOML (strict: an unknown key is an error) and makes the manual page from this file.
Times are in seconds unless a name says otherwise; sizes in octets.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that is listened on."""

    protocol: str
    """smtp (mail from other servers), submission (mail from users), lmtp, imap, pop3, or metrics."""
    address: str
    """IP address, or a path that starts with "/" (LMTP only)."""
    port: int = 0
    """TCP port; 0 takes the protocol's own (25, 587, 465 with implicit TLS, 24, 143/993, 110/995, 9625)."""
    tls: str = "starttls"
    """"starttls" (offered), "implicit" (from the first octet) or "none"."""
    cleartext_login: bool = False
    """Allow logins without TLS. Only for loopback and test systems."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients may do. With several workers, each has its share of those that count sessions or rates."""

    sessions_per_ip: int = 30
    """Sessions at once from one IPv4 address or IPv6 /64, for SMTP from other servers and sessions not logged in;
    three times that for the /26 or /48 around it, nine times for the /21 or /32."""
    sessions_per_account_and_ip: int = 20
    """Logged-in sessions of one account from one address."""
    sessions_per_account: int = 100
    """Logged-in sessions of one account."""
    connects_per_minute: int = 300
    """New connections a minute from one address (×3 and ×9 for its networks)."""
    sessions_smtp: int = 2000
    """SMTP sessions from other servers, all together."""
    sessions_submission: int = 500
    """Submission sessions, reserved beside those."""
    sessions_imap: int = 12000
    """IMAP and POP3 sessions, all together."""
    command_timeout_s: float = 300.0
    """A client that says nothing for so long is told 421 and closed."""
    first_command_timeout_s: float = 60.0
    """As before, for the first command, and for anything before login."""
    greeting_wait_s: float = 2.0
    """An SMTP server that is not known yet waits so long for the greeting; who speaks first is no mail server, and is
    refused. Known is an address that has brought a message; trusted networks never wait. 0: no wait."""
    handshake_timeout_s: float = 30.0
    """For a TLS handshake."""
    min_rate_octets_s: float = 500.0
    """A message that arrives slower than this after ten seconds is cut off."""
    session_without_message_s: float = 1800.0
    """Longest SMTP session without an accepted message."""
    stress_share: float = 0.8
    """Part of the places for SMTP sessions above which those that come are met with less patience: the next three."""
    stress_timeout_s: float = 10.0
    """The client's time for a command, under stress."""
    stress_errors: int = 3
    """Errors after which a session is closed, under stress."""
    stress_junk_commands: int = 5
    """NOOP, RSET, VRFY and the like in a session, under stress."""
    errors_slow: int = 10
    """Errors in an SMTP session after which each answer takes a second."""
    errors_close: int = 20
    """Errors after which an SMTP session is closed."""
    junk_commands: int = 100
    """NOOP, RSET, VRFY and the like in one SMTP session."""
    recipients: int = 1000
    """Recipients of one message. At least 100."""
    messages_per_session: int = 100
    """Messages in one SMTP session. At least 1."""
    message_octets: int = 50 * 1024 * 1024
    """Largest message (announced as SIZE). At least 65,536."""
    smtp_line_octets: int = 2048
    """Longest SMTP command. At least 512."""
    auth_line_octets: int = 12288
    """Longest line of an AUTH exchange. At least 12,288."""
    content_line_octets: int = 65536
    """Longest line of a message. At least 1,000."""
    received_hops: int = 100
    """Received fields after which a message is taken to be in a loop. At least 1."""
    auth_failures_per_session: int = 3
    """Failed logins in a session, after which it is closed."""
    auth_failures_per_minute: int = 10
    """Failed logins a minute from one address (×3 and ×9 for its networks)."""
    auth_failures_per_day: int = 50
    """Failed logins a day from one address (×3 and ×9 for its networks)."""
    login_workers: int = 2
    """Password checks at once in one process. At least 1."""
    login_queue: int = 64
    """Password checks that may wait for those; more are refused for now."""
    login_cache_s: float = 300.0
    """How long a verified login is remembered, so that polling clients cost nothing; 0 turns it off."""
    imap_idle_s: float = 1800.0
    """An IMAP session that says nothing for so long is closed (RFC 3501 §5.4: not under 30 minutes). At least 1,800."""
    pop3_idle_s: float = 600.0
    """The same for POP3 (RFC 1939 §3: not under 10 minutes). At least 600."""
    imap_line_preauth_octets: int = 8192
    """Longest IMAP command before login."""
    imap_line_octets: int = 65536
    """Longest IMAP command, literals not counted."""
    imap_literals: int = 1000
    """Literals in one IMAP command."""
    imap_literal_octets: int = 1024 * 1024
    """All literals of one IMAP command other than APPEND."""
    imap_depth: int = 32
    """Nesting of parentheses in an IMAP command."""
    mailboxes: int = 10000
    """Mailboxes of one account. A change needs a restart."""
    write_buffer_octets: int = 65536
    """Octets that wait for an SMTP client to read them; IMAP has four times that, POP3 128 KiB. At least 32,768."""
    write_stall_s: float = 60.0
    """A client that reads nothing for so long is closed."""
    submission_messages_per_hour: int = 200
    """Messages one account may submit in an hour."""
    submission_recipients_per_hour: int = 500
    """Recipients one account may submit to in an hour."""
    submission_burst: int = 50
    """Messages one account may submit in a minute."""
    mailbox_messages_per_minute: int = 100
    """Messages for one mailbox in a minute; more are deferred."""
    messages_per_ip_minute: int = 500
    """Messages a minute from one address."""
    octets_per_ip_minute: int = 1000 * 1024 * 1024
    """Octets of messages a minute from one address."""
    open_accounts: int = 2000
    """Account files a process keeps open, at most; fewer where memory or descriptors are few. A change needs a
    restart. At least 4."""


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue."""

    lifetime_s: float = 5 * 86400.0
    """After this a message that could not be delivered is returned."""
    first_retry_s: float = 300.0
    """Delay after the first failure; it doubles with each, with some jitter. At least 1."""
    max_retry_s: float = 4 * 3600.0
    """The longest delay between two tries. At least 1."""
    delay_notice_s: float = 4 * 3600.0
    """When the sender is told that a message is delayed; 0: never."""
    per_destination: int = 20
    """Deliveries at once to one destination. At least 1."""
    concurrency: int = 100
    """Deliveries at once to other hosts, all together. At least 1."""
    trace_days: float = 30.0
    """How long events are kept for `pillarbox trace`."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail for some domains goes, instead of their MX records."""

    domain: str
    """A domain, "*.domain" for what is below it, or "*" for everything (a smarthost)."""
    host: str
    """Host name or IP address."""
    port: int = 25
    """TCP port."""
    tls: str = "opportunistic"
    """"opportunistic", "verify" (certificate checked), "implicit" (and checked) or "none"."""
    protocol: str = "smtp"
    """smtp or lmtp."""
    username: str = ""
    """For AUTH (only over TLS, or to loopback)."""
    password: str = ""
    """For AUTH."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """Sending to other servers."""

    port: int = 25
    """TCP port of other servers."""
    allow_networks: tuple[str, ...] = ()
    """Loopback and private networks that may be connected to; all such are refused otherwise."""
    name_servers: tuple[str, ...] = ()
    """DNS servers, "address" or "address:port"; those of the system if empty."""
    routes: tuple[Route, ...] = ()
    """Static routes and smarthosts, first match wins."""
    source_address: str = ""
    """Local address to send from."""
    connect_timeout_s: float = 30.0
    """For a TCP connection."""
    starttls: bool = True
    """Use STARTTLS where it is offered."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates."""

    certificate: str = ""
    """PEM file with the certificate chain; empty: a self-signed one is made in the home."""
    key: str = ""
    """PEM file with the private key (mode 600). Empty: the certificate's file has the key, too."""
    min_version: str = "1.2"
    """"1.2" or "1.3"."""


@dataclass(frozen=True, slots=True)
class Logging:
    """Logs and metrics."""

    level: str = "info"
    """debug, info, warning or error. A change needs a restart."""
    format: str = "auto"
    """json, text, or auto: text on a terminal, else json."""
    file: str = ""
    """Path; empty: standard error."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    hostname: str = ""
    """Our name in greetings and Received fields; empty: the machine's."""
    postmaster: str = ""
    """Who reads mail for postmaster and abuse of every domain, and for bare postmaster."""
    workers: int = 0
    """Front processes; 0: one per core; 1: everything in one process. A change needs a restart. At most 256."""
    user: str = ""
    """Whom to become after binding, when started as root. A change needs a restart."""
    detail_separator: str = "+"
    """ada+anything@ reaches ada@; empty: off."""
    trusted_networks: tuple[str, ...] = ()
    """Networks for which no limit per address, network, mailbox rate, session length or count holds."""
    relay_networks: tuple[str, ...] = ()
    """Networks that may send to other domains without a login."""
    scram_iterations: int = 600_000
    """Work to check a password, for new passwords. From 4,096 to 5,000,000."""
    default_quota_octets: int = 0
    """Quota of new accounts; 0: none."""
    listeners: tuple[Listener, ...] = ()
    """What to listen on; empty: the standard ports on all addresses. A change needs a restart."""
    limits: Limits = field(default_factory=Limits)
    queue: Queue = field(default_factory=Queue)
    outbound: Outbound = field(default_factory=Outbound)
    tls: Tls = field(default_factory=Tls)
    log: Logging = field(default_factory=Logging)
