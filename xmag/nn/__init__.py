"""Networks and their releases: the only room that imports torch."""
