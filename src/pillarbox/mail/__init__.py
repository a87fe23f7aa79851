"""Use cases and policy: who may send what to whom, where it goes, and what becomes of it. Async, without sockets."""
