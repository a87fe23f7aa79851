"""Real neighbours: Debian's mail programs against a running pillarbox, through the front door."""
