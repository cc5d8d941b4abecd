"""Broken folders and files, each given to a command: what a user is told."""
