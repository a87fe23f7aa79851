"""Values that every floor speaks: addresses, outcomes, flags, ids. Standard library only, no I/O."""
