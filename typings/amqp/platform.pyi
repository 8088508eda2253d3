KNOWN_TCP_OPTS: set[str]
