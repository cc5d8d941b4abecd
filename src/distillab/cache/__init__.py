"""The signal of a teacher on disk: small, safe to interrupt, and never taken for something else. See FORMAT.md."""
