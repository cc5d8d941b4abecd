"""Store a teacher's signal on disk: compact, safe to interrupt, checked by identity and checksums. See FORMAT.md."""
