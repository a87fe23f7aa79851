#!/bin/sh
# Install the mail programs that tests/neighbours and bench talk to. Debian 12; needs root.
#
# No system-wide service is started by this script: while it works, policy-rc.d forbids every start. The tests run
# own instances of the servers, with own folders and ports.
set -eu

clients="swaks git git-email mutt neomutt isync offlineimap3 getmail6 fetchmail mpop curl s-nail openssl gsasl"
# What some of the above need for TLS and AUTH, but only recommend.
parts="libnet-ssleay-perl libio-socket-ssl-perl libauthen-sasl-perl libmailtools-perl libnet-dns-perl libsasl2-modules ncurses-base"
servers="postfix dovecot-imapd dovecot-pop3d dovecot-lmtpd"

missing=""
for package in $clients $parts $servers; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "neighbours: all programs are here"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "neighbours: not root, so nothing is installed; as root: apt-get install$missing" >&2
    exit 0
fi

policy=/usr/sbin/policy-rc.d
saved=""
restore() {
    rm -f "$policy"
    if [ -n "$saved" ]; then mv "$saved" "$policy"; fi
}
trap restore EXIT
trap 'exit 1' INT TERM HUP
if [ -e "$policy" ]; then
    saved="$policy.before-pillarbox"
    mv "$policy" "$saved"
fi
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
apt-get update -q
# shellcheck disable=SC2086  # the list is meant to be split
apt-get install -q -y --no-install-recommends $missing
