"""Benches: pillarbox beside Debian's Postfix and Dovecot, in the same run, printed as ratios."""
